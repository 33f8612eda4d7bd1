import type { MigratableDevice } from '../device/migratable-device.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import type { DeviceDescription, DeviceFrame } from '../protocol/frame.js';

/** Chunks of one device's state, handed to `load` as they come. */
class StateQueue implements AsyncIterable<Uint8Array> {
  readonly #chunks: Uint8Array[] = [];
  #ended = false;
  #failure: unknown;
  #wake: (() => void) | undefined;
  nextSequence = 0;
  /** Bytes that wait to be loaded. */
  pendingBytes = 0;

  get ended(): boolean {
    return this.#ended;
  }

  push(chunk: Uint8Array): void {
    if (chunk.byteLength > 0) {
      this.#chunks.push(chunk);
      this.pendingBytes += chunk.byteLength;
    }
    this.#notify();
  }

  end(): void {
    this.#ended = true;
    this.#notify();
  }

  fail(error: unknown): void {
    this.#failure ??= error;
    this.#notify();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) {
        this.pendingBytes -= chunk.byteLength;
        yield chunk;
      } else if (this.#ended) {
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }
}

/**
 * Collects device state at the destination and loads it: iterative devices as their state comes, all others after
 * `switchover`, in the order in which the destination's VM lists them.
 */
export class DeviceLoader {
  readonly #vm: MigratableVm;
  readonly #described: readonly DeviceDescription[];
  readonly #queues: readonly StateQueue[];
  readonly #maximumBytes: number;
  readonly #onFailure: (error: GodwitError) => void;
  readonly #loads = new Map<string, Promise<void>>();

  /** `maximumBytes` bounds what is held for each device; `onFailure` hears of a device that fails before `load`. */
  constructor(
    vm: MigratableVm,
    described: readonly DeviceDescription[],
    maximumBytes: number,
    onFailure: (error: GodwitError) => void,
  ) {
    this.#vm = vm;
    this.#described = described;
    this.#queues = described.map(() => new StateQueue());
    this.#maximumBytes = maximumBytes;
    this.#onFailure = onFailure;
  }

  /** For each device, the sequence of the piece that is expected next. */
  get sequences(): readonly number[] {
    return this.#queues.map((queue) => queue.nextSequence);
  }

  /** Checks a frame before its payload is allocated. */
  admit(frame: DeviceFrame, payloadBytes: number): void {
    const described = this.#described[frame.device];
    const queue = this.#queues[frame.device];
    if (described === undefined || queue === undefined) {
      throw new GodwitError(
        'GODWIT_OUT_OF_RANGE',
        `a "device" frame names device ${frame.device}; there are ${this.#queues.length}`,
      );
    }
    if (queue.ended || frame.sequence !== queue.nextSequence) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `device "${described.id}": expected ${queue.ended ? 'no further state' : `piece ${queue.nextSequence}`}, got piece ${frame.sequence}`,
      );
    }
    if (queue.pendingBytes + payloadBytes > this.#maximumBytes) {
      throw new GodwitError(
        'GODWIT_LIMIT_EXCEEDED',
        `device "${described.id}": more than ${this.#maximumBytes} bytes of state wait to be loaded; raise maximumDeviceState if that is right`,
      );
    }
  }

  /** Takes a piece of state that was admitted. */
  accept(frame: DeviceFrame, chunk: Uint8Array): void {
    const queue = this.#queues[frame.device] as StateQueue;
    queue.nextSequence++;
    queue.push(chunk);
    if (frame.last) queue.end();
    const device = this.#deviceOf(frame.device);
    if (device.precopy !== undefined && !this.#loads.has(device.id)) {
      const loading = this.#load(device, frame.device);
      loading.catch((error: GodwitError) => this.#onFailure(error));
      this.#loads.set(device.id, loading);
    }
  }

  /** Loads all that is not loaded yet. Every device must have sent its last piece. */
  async loadAll(): Promise<void> {
    for (const [index, queue] of this.#queues.entries()) {
      if (!queue.ended) {
        throw new GodwitError(
          'GODWIT_PROTOCOL',
          `"switchover" came before the end of the state of device "${this.#described[index]?.id}"`,
        );
      }
    }
    for (const device of this.#vm.devices) {
      const index = this.#described.findIndex((described) => described.id === device.id);
      await (this.#loads.get(device.id) ?? this.#load(device, index));
    }
  }

  /** Ends loads that wait for more state. */
  fail(error: GodwitError): void {
    for (const queue of this.#queues) queue.fail(error);
  }

  #deviceOf(index: number): MigratableDevice {
    const id = this.#described[index]?.id;
    return this.#vm.devices.find((device) => device.id === id) as MigratableDevice;
  }

  async #load(device: MigratableDevice, index: number): Promise<void> {
    const version = this.#described[index]?.version as number;
    try {
      await device.load(this.#queues[index] as StateQueue, version);
    } catch (error) {
      throw new GodwitError(
        'GODWIT_DEVICE_FAILED',
        `device "${device.id}" failed to load its state (version ${version}): ${error instanceof Error ? error.message : String(error)}`,
        { cause: error },
      );
    }
  }
}
