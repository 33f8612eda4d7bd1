import type { MigratableVm } from '../device/migratable-vm.js';
import { sideBySide } from '../device/side-by-side.js';
import { GodwitError } from '../errors.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { DeviceDescription, DeviceFrame } from '../protocol/frame.js';
import { IncomingDevice } from './incoming-device.js';
import type { LoadForecast } from './load-forecast.js';

export interface DeviceLoaderParts {
  readonly vm: MigratableVm;
  readonly described: readonly DeviceDescription[];
  /** Most bytes that are held before they are loaded, of all devices together. */
  readonly maximumBytes: number;
  /** Called with the error of a device that fails while no call of the loader waits for it. */
  readonly onFailure: (error: GodwitError) => void;
  /** Learns how fast devices load, if given. */
  readonly forecast?: LoadForecast;
  /** Called when the `load` of the device with this index has taken more. */
  readonly onLoaded: (device: number) => void;
}

/** A device's progress is reported after this many bytes, and when it has loaded everything that has come. */
const REPORT_BYTES = 256 * 1024;

/**
 * Collects device state at the destination and loads it. Pieces that come while the guest runs are loaded at once; the rest is loaded
 * after `switchover`, in the order in which the destination's VM lists its devices.
 */
export class DeviceLoader {
  readonly #parts: DeviceLoaderParts;
  readonly #devices: readonly IncomingDevice[];
  readonly #inOrder: readonly IncomingDevice[];
  /** In the same order: those that are loaded at the same time together. */
  readonly #groups: readonly (readonly IncomingDevice[])[];
  /** Per device: bytes that it has loaded since the last report. */
  readonly #unreported: number[];
  /** Pages that the loads of given-up attempts have written. */
  readonly #owed: DirtyBitmaps;
  #wake: (() => void)[] = [];
  /** Number of the last attempt that was given up. */
  #givenUp = 0;

  constructor(parts: DeviceLoaderParts) {
    const { vm, described } = parts;
    this.#parts = parts;
    const byId = new Map(vm.devices.map((device) => [device.id, device]));
    this.#devices = described.map(({ id, version }, index) => {
      const device = byId.get(id);
      if (device === undefined) throw new GodwitError('GODWIT_INTERNAL', `no device "${id}"`);
      return new IncomingDevice(device, version, (bytes) => this.#taken(index, bytes));
    });
    const places = new Map(this.#devices.map((incoming) => [incoming.device.id, incoming]));
    this.#inOrder = vm.devices.flatMap(({ id }) => places.get(id) ?? []);
    this.#groups = sideBySide(this.#inOrder.map(({ device }) => device)).map((together) =>
      together.flatMap(({ id }) => places.get(id) ?? []),
    );
    this.#unreported = described.map(() => 0);
    this.#owed = new DirtyBitmaps(vm.memory);
  }

  /** Per device: the sequence of the next piece that is expected while the guest runs at the source. */
  get sequences(): readonly number[] {
    return this.#devices.map(({ nextSequence }) => nextSequence);
  }

  /** Per device: how often it was reset. */
  get resets(): readonly number[] {
    return this.#devices.map(({ resets }) => resets);
  }

  /** Per device: every piece before this sequence was taken by `load`. */
  get loaded(): readonly number[] {
    return this.#devices.map(({ loadedSequence }) => loadedSequence);
  }

  /** Pages that the source must send again, since a `load` has written them. Complete once `prepared` has resolved. */
  get owed(): DirtyBitmaps {
    return this.#owed;
  }

  /** Checks a frame before its payload is allocated. Throws `GODWIT_OUT_OF_RANGE`, `GODWIT_PROTOCOL` or `GODWIT_LIMIT_EXCEEDED`. */
  admit(frame: DeviceFrame, payloadBytes: number): void {
    const incoming = this.#devices[frame.device];
    if (incoming === undefined) {
      throw new GodwitError(
        'GODWIT_OUT_OF_RANGE',
        `a "device" frame names device ${frame.device}; there are ${this.#devices.length}`,
      );
    }
    const { id } = incoming.device;
    const expected = incoming.expected(frame.attempt);
    if (expected !== frame.sequence || (frame.attempt === 0 && frame.last)) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `device "${id}": expected ${expected === undefined ? 'no further state' : `piece ${expected}`} of attempt ${frame.attempt}, got ${frame.last ? 'the last ' : ''}piece ${frame.sequence}`,
      );
    }
    const pending = this.#devices.reduce((sum, { pendingBytes }) => sum + pendingBytes, 0);
    if (pending + payloadBytes > this.#parts.maximumBytes) {
      throw new GodwitError(
        'GODWIT_LIMIT_EXCEEDED',
        `device "${id}": more than ${this.#parts.maximumBytes} bytes of state wait to be loaded; raise maximumDeviceState if that is right`,
      );
    }
  }

  /** Takes the payload of a frame that `admit` has checked. */
  accept({ device, attempt, last }: DeviceFrame, chunk: Uint8Array): void {
    const incoming = this.#devices[device] as IncomingDevice;
    if (attempt > 0) {
      incoming.hold(attempt, chunk, last);
      return;
    }
    const begins = incoming.loading === undefined;
    if (incoming.pendingBytes === 0) this.#parts.forecast?.begun(device);
    incoming.take(chunk);
    if (begins) {
      const { loading } = incoming;
      // A load that was voided since also rejects; that is no failure of the device.
      loading?.catch((error: GodwitError) => {
        if (incoming.loading === loading) this.#parts.onFailure(error);
      });
    }
  }

  /** Loads all that is not loaded yet. Rejects with `GODWIT_PROTOCOL` unless every device has its last piece of this attempt. */
  async loadAll(attempt: number): Promise<void> {
    const missing = this.#inOrder.find((incoming) => !incoming.isComplete(attempt));
    if (missing !== undefined) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `"switchover" came before the end of the state of device "${missing.device.id}"`,
      );
    }
    for (const together of this.#groups) {
      // Only when all are over: the first failure would otherwise leave loads behind.
      const outcomes = await Promise.allSettled(together.map((incoming) => incoming.commit()));
      for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
      // The attempt was given up meanwhile: nothing more of it is loaded.
      if (this.#givenUp >= attempt) return;
    }
  }

  /** Resolves when each device has loaded every piece before its sequence, and its `prepared` has resolved. */
  async prepared(sequences: readonly number[]): Promise<void> {
    const taken = () => new Promise<void>((resolve) => this.#wake.push(resolve));
    await Promise.all(this.#devices.map((incoming, index) => incoming.prepared(sequences[index] ?? 0, taken)));
  }

  /** Voids the state of an attempt that was given up. Throws `GODWIT_DEVICE_FAILED` when a device cannot go back. */
  goBack(attempt: number): void {
    this.#givenUp = attempt;
    for (const incoming of this.#devices) incoming.goBack(this.#owed, this.#parts.onFailure);
  }

  /** Resolves when no call into a device is pending. */
  async idle(): Promise<void> {
    await Promise.all(this.#devices.map((incoming) => incoming.idle()));
  }

  /** Ends the loads that wait for more state, with `error`. */
  fail(error: GodwitError): void {
    for (const incoming of this.#devices) incoming.fail(error);
  }

  #taken(index: number, bytes: number): void {
    for (const wake of this.#wake.splice(0)) wake();
    const incoming = this.#devices[index];
    if (incoming === undefined) return;
    this.#parts.forecast?.took(index, bytes, incoming.pendingBytes > 0);
    const unreported = (this.#unreported[index] ?? 0) + bytes;
    const report = incoming.pendingBytes === 0 || unreported >= REPORT_BYTES;
    this.#unreported[index] = report ? 0 : unreported;
    if (report) this.#parts.onLoaded(index);
  }
}
