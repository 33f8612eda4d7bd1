import { abortable } from '../abortable.js';
import type { MigratableDevice } from '../device/migratable-device.js';
import { GodwitError } from '../errors.js';
import type { FrameStream } from '../link/frame-stream.js';

/** Largest piece of device state in one frame. */
const PIECE_BYTES = 2 ** 20;

/** Sends device state over the control stream: pieces between rounds, the rest with the guest paused. */
export class DeviceSender {
  readonly #devices: readonly MigratableDevice[];
  readonly #sequences: number[];
  readonly #stream: FrameStream;
  readonly #signal: AbortSignal;

  constructor(devices: readonly MigratableDevice[], stream: FrameStream, signal: AbortSignal) {
    this.#devices = devices;
    this.#sequences = devices.map(() => 0);
    this.#stream = stream;
    this.#signal = signal;
  }

  /** Bytes that the devices expect to send when saved now. */
  async stateBytes(): Promise<number> {
    let bytes = 0;
    for (const device of this.#devices) bytes += (await device.stateBytes?.()) ?? 0;
    return bytes;
  }

  /** Sends what devices offer while the guest runs. */
  async precopy(): Promise<void> {
    for (const [index, device] of this.#devices.entries()) {
      if (device.precopy === undefined) continue;
      try {
        for await (const chunk of device.precopy()) await this.#pieces(index, chunk);
      } catch (error) {
        throw this.#failed(device, 'pre-copy', error);
      }
    }
  }

  /** Saves and sends every device, with the guest paused. */
  async save(): Promise<void> {
    for (const [index, device] of this.#devices.entries()) {
      try {
        for await (const chunk of device.save()) await this.#pieces(index, chunk);
      } catch (error) {
        throw this.#failed(device, 'save', error);
      }
      await abortable(this.#stream.write(this.#header(index, true), []), this.#signal);
    }
  }

  async #pieces(index: number, chunk: Uint8Array): Promise<void> {
    for (let at = 0; at < chunk.byteLength; at += PIECE_BYTES) {
      await abortable(this.#stream.write(this.#header(index, false), [chunk.subarray(at, at + PIECE_BYTES)]), this.#signal);
    }
    this.#signal.throwIfAborted();
  }

  #header(device: number, last: boolean) {
    const sequence = this.#sequences[device] as number;
    this.#sequences[device] = sequence + 1;
    return { type: 'device', device, sequence, last } as const;
  }

  #failed(device: MigratableDevice, what: string, error: unknown): unknown {
    if (this.#signal.aborted) return error;
    return GodwitError.is(error) && error.code === 'GODWIT_LINK_LOST'
      ? error
      : new GodwitError(
          'GODWIT_DEVICE_FAILED',
          `device "${device.id}" failed to ${what} its state: ${error instanceof Error ? error.message : String(error)}`,
          { cause: error },
        );
  }
}
