import { abortable } from '../abortable.js';
import type { MigratableDevice } from '../device/migratable-device.js';
import { GodwitError } from '../errors.js';
import type { FrameStream } from '../link/frame-stream.js';

/** Largest piece of device state in one frame. */
const PIECE_BYTES = 2 ** 20;

export interface DeviceSenderParts {
  readonly devices: readonly MigratableDevice[];
  readonly stream: FrameStream;
  readonly signal: AbortSignal;
  /** Most bytes of payload that the destination takes in one frame. */
  readonly maximumPayload: number;
}

/** Sends device state over the control stream: pieces between rounds, the rest with the guest paused. */
export class DeviceSender {
  readonly #devices: readonly MigratableDevice[];
  readonly #sequences: number[];
  /** Devices whose `precopy` or `save` was called. */
  readonly #asked = new Set<number>();
  readonly #stream: FrameStream;
  readonly #signal: AbortSignal;
  readonly #pieceBytes: number;
  #working: Promise<void> = Promise.resolve();

  constructor({ devices, stream, signal, maximumPayload }: DeviceSenderParts) {
    this.#devices = devices;
    this.#sequences = devices.map(() => 0);
    this.#stream = stream;
    this.#signal = signal;
    this.#pieceBytes = Math.min(PIECE_BYTES, maximumPayload);
  }

  /** Bytes that the devices expect to send when saved now. */
  stateBytes(): Promise<number> {
    return this.#work(async () => {
      let bytes = 0;
      for (const device of this.#devices) {
        try {
          bytes += (await device.stateBytes?.()) ?? 0;
        } catch (error) {
          throw failed(device, 'tell the size of', error);
        }
      }
      return bytes;
    });
  }

  /** Sends what devices offer while the guest runs. */
  precopy(): Promise<void> {
    return this.#work(async () => {
      for (const [index, device] of this.#devices.entries()) {
        if (device.precopy !== undefined) await this.#send(index, device, 'pre-copy', () => device.precopy?.());
      }
    });
  }

  /** Saves and sends every device, with the guest paused. */
  save(): Promise<void> {
    return this.#work(async () => {
      for (const [index, device] of this.#devices.entries()) {
        await this.#send(index, device, 'save', () => device.save());
        await abortable(this.#stream.write(this.#header(index, true), []), this.#signal);
      }
    });
  }

  /** Lets every device that was asked for state end it; failures are reported, not thrown. */
  async release(onFailure: (device: MigratableDevice, error: unknown) => void): Promise<void> {
    for (const [index, device] of this.#devices.entries()) {
      if (!this.#asked.delete(index)) continue;
      try {
        await device.release?.();
      } catch (error) {
        onFailure(device, error);
      }
    }
  }

  /** Resolves when no code of a device runs on our behalf any more: before the guest may run again. */
  async idle(): Promise<void> {
    await this.#working;
  }

  async #send(
    index: number,
    device: MigratableDevice,
    what: string,
    state: () => AsyncIterable<Uint8Array> | undefined,
  ): Promise<void> {
    this.#asked.add(index);
    let ours: { readonly error: unknown } | undefined;
    try {
      for await (const chunk of state() ?? []) {
        try {
          await this.#pieces(index, chunk);
        } catch (error) {
          ours = { error };
          throw error;
        }
      }
    } catch (error) {
      // The link's failure or a cancel is not the device's.
      if (ours !== undefined) throw ours.error;
      throw failed(device, what, error);
    }
  }

  async #pieces(index: number, chunk: Uint8Array): Promise<void> {
    for (let at = 0; at < chunk.byteLength; at += this.#pieceBytes) {
      const piece = chunk.subarray(at, at + this.#pieceBytes);
      await abortable(this.#stream.write(this.#header(index, false), [piece]), this.#signal);
    }
    this.#signal.throwIfAborted();
  }

  #header(device: number, last: boolean) {
    const sequence = this.#sequences[device] as number;
    this.#sequences[device] = sequence + 1;
    return { type: 'device', device, sequence, last } as const;
  }

  /** A device that hangs does not keep a migration from being cancelled. */
  #work<T>(work: () => Promise<T>): Promise<T> {
    const working = work();
    this.#working = working.then(
      () => {},
      () => {},
    );
    return abortable(working, this.#signal);
  }
}

function failed(device: MigratableDevice, what: string, error: unknown): GodwitError {
  return new GodwitError(
    'GODWIT_DEVICE_FAILED',
    `device "${device.id}" failed to ${what} its state: ${error instanceof Error ? error.message : String(error)}`,
    { cause: error },
  );
}
