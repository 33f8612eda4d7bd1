import { abortable } from '../abortable.js';
import type { MigratableDevice } from '../device/migratable-device.js';
import { GodwitError } from '../errors.js';
import type { FrameStream } from '../link/frame-stream.js';
import type { DeviceFrame } from '../protocol/frame.js';

/** Largest piece of device state in one frame. */
const PIECE_BYTES = 2 ** 20;

/** Pieces that were sent while the guest runs and are not acknowledged: at most about this many bytes are kept. */
const MOST_KEPT_BYTES = 16 * 2 ** 20;

/** The connection that state is sent over. */
export interface DeviceLink {
  readonly control: { readonly stream: FrameStream };
  readonly signal: AbortSignal;
  ping(): Promise<number>;
}

/** A piece that the destination has not acknowledged, as it was sent. */
interface KeptPiece {
  readonly header: DeviceFrame;
  readonly bytes: Uint8Array;
}

/**
 * Sends device state over the control stream: pieces between rounds, the rest with the guest paused.
 *
 * What a device has yielded while the guest runs it will not yield again, so each such piece is kept (a copy) until the
 * destination has answered a ping behind it: after a lost link it is sent again over the next one.
 */
export class DeviceSender {
  readonly #devices: readonly MigratableDevice[];
  readonly #sequences: number[];
  /** Devices whose `precopy` or `save` was called. */
  readonly #asked = new Set<MigratableDevice>();
  /** Ends it all; each connection has a signal of its own beside it. */
  readonly #signal: AbortSignal;
  readonly #kept: KeptPiece[] = [];
  #keptBytes = 0;
  #link: DeviceLink | undefined;
  #pieceBytes = PIECE_BYTES;
  #working: Promise<void> = Promise.resolve();

  constructor(devices: readonly MigratableDevice[], signal: AbortSignal) {
    this.#devices = devices;
    this.#sequences = devices.map(() => 0);
    this.#signal = signal;
  }

  /** From now on state goes over `link`; `maximumPayload` is the most bytes that the destination takes in one frame. */
  use(link: DeviceLink, maximumPayload: number): void {
    this.#link = link;
    this.#pieceBytes = Math.min(PIECE_BYTES, maximumPayload);
  }

  /** Bytes that the devices expect to send when saved now. */
  stateBytes(): Promise<number> {
    return this.#work(this.#signal, async () => {
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
    const link = this.#current;
    return this.#work(link.signal, async () => {
      for (const [index, device] of this.#devices.entries()) {
        if (device.precopy === undefined) continue;
        const write = (chunk: Uint8Array) => this.#iterative(link, index, chunk);
        await this.#send(link, device, 'pre-copy', () => device.precopy?.(), write);
      }
    });
  }

  /** Saves and sends every device, with the guest paused. */
  save(): Promise<void> {
    const link = this.#current;
    return this.#work(link.signal, async () => {
      for (const [index, device] of this.#devices.entries()) {
        const write = async (chunk: Uint8Array) => {
          for (const piece of this.#pieces(chunk)) await this.#write(link, this.#header(index, false), piece);
        };
        await this.#send(link, device, 'save', () => device.save(), write);
        await this.#write(link, this.#header(index, true));
      }
    });
  }

  /** Lets every device that was asked for state end it; failures are reported, not thrown. */
  async release(onFailure: (device: MigratableDevice, error: unknown) => void): Promise<void> {
    for (const device of this.#asked) {
      this.#asked.delete(device);
      try {
        await device.release?.();
      } catch (error) {
        onFailure(device, error);
      }
    }
  }

  /** The destination has answered a ping that was sent behind everything so far. */
  acknowledged(): void {
    this.#kept.length = 0;
    this.#keptBytes = 0;
  }

  /** The destination goes on with these pieces: those before them have arrived, the others are sent again. */
  resume(expected: readonly number[]): Promise<void> {
    const link = this.#current;
    // Behind whatever a device still does for the link before: it may keep a piece even now.
    return this.#work(link.signal, () => this.#resume(link, expected));
  }

  /** A destination that knows nothing gets everything anew, if the devices can yield it again. */
  restart(): Promise<void> {
    return this.#work(this.#signal, () => this.#restart());
  }

  /** Resolves when no code of a device runs on our behalf any more: before the guest may run again. */
  async idle(): Promise<void> {
    await this.#working;
  }

  get #current(): DeviceLink {
    if (this.#link === undefined) throw new GodwitError('GODWIT_INTERNAL', 'device state before there is a link');
    return this.#link;
  }

  async #resume(link: DeviceLink, expected: readonly number[]): Promise<void> {
    for (const [index, next] of this.#sequences.entries()) {
      const first = this.#kept.find(({ header }) => header.device === index)?.header.sequence ?? next;
      const wanted = expected[index];
      if (wanted !== undefined && wanted >= first && wanted <= next) continue;
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `device "${this.#devices[index]?.id}": the destination expects piece ${wanted}; it has acknowledged ${first} and was sent ${next}`,
      );
    }
    for (const { header, bytes } of this.#kept) {
      if (header.sequence >= (expected[header.device] as number)) await this.#write(link, header, bytes);
    }
  }

  async #restart(): Promise<void> {
    for (const [index, device] of this.#devices.entries()) {
      if ((this.#sequences[index] as number) === 0) continue;
      if (device.restart === undefined) {
        throw new GodwitError(
          'GODWIT_UNSUPPORTED',
          `the destination was restarted, and device "${device.id}" cannot yield again what it has sent while the guest runs (it has no restart()); start a new migration`,
        );
      }
      try {
        await device.restart();
      } catch (error) {
        throw failed(device, 'begin again with', error);
      }
      this.#sequences[index] = 0;
    }
    this.acknowledged();
  }

  async #send(
    link: DeviceLink,
    device: MigratableDevice,
    what: string,
    state: () => AsyncIterable<Uint8Array> | undefined,
    write: (chunk: Uint8Array) => Promise<void>,
  ): Promise<void> {
    this.#asked.add(device);
    let ours: { readonly error: unknown } | undefined;
    try {
      for await (const chunk of state() ?? []) {
        try {
          await write(chunk);
          link.signal.throwIfAborted();
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

  /** The whole chunk is kept before a byte of it is written: the device has let go of it. */
  async #iterative(link: DeviceLink, index: number, chunk: Uint8Array): Promise<void> {
    const copy = chunk.slice();
    const pieces: KeptPiece[] = [];
    for (const bytes of this.#pieces(copy)) pieces.push({ header: this.#header(index, false), bytes });
    this.#kept.push(...pieces);
    this.#keptBytes += copy.byteLength;
    for (const { header, bytes } of pieces) await this.#write(link, header, bytes);
    if (this.#keptBytes < MOST_KEPT_BYTES) return;
    await link.ping();
    this.acknowledged();
  }

  *#pieces(chunk: Uint8Array): Generator<Uint8Array> {
    for (let at = 0; at < chunk.byteLength; at += this.#pieceBytes) yield chunk.subarray(at, at + this.#pieceBytes);
  }

  #write({ control, signal }: DeviceLink, header: DeviceFrame, piece?: Uint8Array): Promise<void> {
    return abortable(control.stream.write(header, piece === undefined ? [] : [piece]), signal);
  }

  #header(device: number, last: boolean): DeviceFrame {
    const sequence = this.#sequences[device] as number;
    this.#sequences[device] = sequence + 1;
    return { type: 'device', device, sequence, last, attempt: 0 };
  }

  /** A device that hangs does not keep a migration from being cancelled. */
  #work<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    const before = this.#working;
    const working = before.then(work);
    this.#working = working.then(
      () => {},
      () => {},
    );
    return abortable(working, signal);
  }
}

function failed(device: MigratableDevice, what: string, error: unknown): GodwitError {
  return new GodwitError(
    'GODWIT_DEVICE_FAILED',
    `device "${device.id}" failed to ${what} its state: ${error instanceof Error ? error.message : String(error)}`,
    { cause: error },
  );
}
