import { abortable, underAll } from '../abortable.js';
import type { Clock } from '../clock.js';
import type { MigratableDevice } from '../device/migratable-device.js';
import { sideBySide } from '../device/side-by-side.js';
import { GodwitError } from '../errors.js';
import type { DeviceFrame, Frame } from '../protocol/frame.js';
import { DeviceCalls } from './device-calls.js';
import { DeviceReports } from './device-reports.js';

/** Most bytes of device state in one frame. */
const PIECE_BYTES = 2 ** 20;

/** Bytes of unacknowledged pieces, sent while the guest runs, from which on a device waits for an acknowledgement. */
const MOST_KEPT_BYTES = 16 * 2 ** 20;

/** The part of a connection that device state needs. */
export interface DeviceLink {
  readonly signal: AbortSignal;
  write(frame: Frame, payload?: readonly Uint8Array[]): Promise<void>;
  ping(): Promise<number>;
}

/** A piece that the destination has not acknowledged, as it was sent. */
interface KeptPiece {
  readonly header: DeviceFrame;
  readonly bytes: Uint8Array;
  sent: boolean;
}

/**
 * Sends device state over the control stream: pieces between rounds while the guest runs, the rest with the guest paused.
 *
 * A device does not yield the same state twice while the guest runs, so each such piece is kept (a copy) until the destination has
 * answered a ping sent after it. After a lost link it is sent again over the next connection. State that `save` yields belongs to
 * its stop-and-copy and is not kept: the next attempt calls `save` again.
 */
export class DeviceSender {
  readonly calls: DeviceCalls;
  /** What devices say of their state, for predictions. */
  readonly reports: DeviceReports;
  readonly #devices: readonly MigratableDevice[];
  readonly #clock: Clock | undefined;
  /** Per device: the sequence of the next piece that is sent while the guest runs. */
  readonly #sequences: number[];
  /** Per device: how often the destination has reset it, by its last report. */
  readonly #resets: number[];
  /** Per device: how often it was restarted. State that a `precopy` begun before the last restart yields is not sent. */
  readonly #epochs: number[];
  /** Per device: bytes of each piece that was sent and that the destination's `load` has not taken, by sequence. */
  readonly #waiting: Map<number, number>[];
  #waitingBytes = 0;
  #wakeForRoom: (() => void) | undefined;
  /** Called when a piece has to wait for room at the destination: the round goes on without its device. */
  #onStall: () => void = () => {};
  /** The error of a device whose `precopy` outlived its round; the next round throws it. */
  #failure: { readonly error: unknown } | undefined;
  #kept: KeptPiece[] = [];
  /** The kept pieces that are still to be sent over the present connection, in order. */
  #outbox: KeptPiece[] = [];
  #flushing: Promise<void> | undefined;
  #keptBytes = 0;
  #link: DeviceLink | undefined;
  #pieceBytes = PIECE_BYTES;
  #maximumBytes = Number.POSITIVE_INFINITY;

  /** `clock`: to learn how long devices take. */
  constructor(devices: readonly MigratableDevice[], clock?: Clock) {
    this.#devices = devices;
    this.#clock = clock;
    this.calls = new DeviceCalls(devices);
    this.reports = new DeviceReports(devices, this.calls);
    this.#sequences = devices.map(() => 0);
    this.#resets = devices.map(() => 0);
    this.#epochs = devices.map(() => 0);
    this.#waiting = devices.map(() => new Map());
  }

  /**
   * Sends state over `link` from now on. `maximumPayload` is the most bytes that the destination takes in one frame,
   * `maximumDeviceState` the most that it holds before its devices have loaded them.
   */
  use(link: DeviceLink, maximumPayload: number, maximumDeviceState: number): void {
    this.#link = link;
    this.#pieceBytes = Math.max(1, Math.min(PIECE_BYTES, maximumPayload, maximumDeviceState));
    this.#maximumBytes = maximumDeviceState;
  }

  /** Per device: the sequence of the next piece that is sent while the guest runs. */
  get sequences(): readonly number[] {
    return this.#sequences;
  }

  /**
   * Sends what devices offer while the guest runs, one after the other. One that is still busy is left out, and one whose state the
   * destination loads more slowly than it comes goes on beside the next rounds; when `cut` aborts, whatever is under way does.
   */
  async precopy(cut?: AbortSignal): Promise<void> {
    const link = this.#current;
    if (this.#failure !== undefined) throw this.#failure.error;
    const stalled = new Promise<void>((resolve) => {
      this.#onStall = resolve;
    });
    const onCut = () => this.#onStall();
    cut?.addEventListener('abort', onCut, { once: true });
    try {
      await this.#precopy(link, stalled, () => cut?.aborted === true);
    } finally {
      cut?.removeEventListener('abort', onCut);
    }
  }

  async #precopy(link: DeviceLink, stalled: Promise<void>, isCut: () => boolean): Promise<void> {
    if (this.#flushing === undefined) await Promise.race([this.#flush(link), stalled]);
    for (const [index, device] of this.#devices.entries()) {
      if (isCut()) return;
      if (device.precopy === undefined || this.calls.isBusy(device)) continue;
      const epoch = this.#epochs[index];
      const start = this.#clock?.now();
      const before = this.#keptBytes;
      const chunks = this.calls.begin(device, 'pre-copy', (failed) =>
        this.#each(
          link.signal,
          failed,
          () => device.precopy?.(),
          async (chunk) => {
            if (epoch !== this.#epochs[index]) return false;
            await this.#iterative(link, index, chunk);
            return true;
          },
        ),
      );
      chunks.catch((error: unknown) => {
        if (!link.signal.aborted) this.#failure ??= { error };
      });
      await abortable(Promise.race([chunks, stalled]), link.signal);
      if (start === undefined || this.#clock === undefined || this.calls.isBusy(device)) continue;
      this.reports.yielded(this.#clock.now() - start, this.#keptBytes - before);
    }
  }

  /** Saves and sends every device, with the guest paused, as pieces of `attempt`. Rejects when `signal` aborts: the attempt is given up. */
  async save(attempt: number, signal: AbortSignal): Promise<void> {
    const link = this.#current;
    await this.#flush(link);
    const saved = { bytes: this.#waitingBytes };
    for (const together of sideBySide(this.#devices)) {
      const failed = new AbortController();
      const all = together.map((device) => async (either: AbortSignal) => {
        try {
          await this.#save(link, device, attempt, either, saved);
        } catch (error) {
          // The first failure ends those beside it.
          failed.abort(error);
          throw error;
        }
      });
      await underAll([signal, failed.signal], (either) => Promise.all(all.map((one) => one(either))));
    }
  }

  /** Saves and sends one device; `saved` counts the bytes of all. */
  async #save(
    link: DeviceLink,
    device: MigratableDevice,
    attempt: number,
    signal: AbortSignal,
    saved: { bytes: number },
  ): Promise<void> {
    let sequence = 0;
    const write = async (last: boolean, bytes?: Uint8Array) => {
      // A device that hung may yield after the attempt was given up: its piece must not be sent after `back`.
      signal.throwIfAborted();
      saved.bytes += bytes?.byteLength ?? 0;
      if (saved.bytes > this.#maximumBytes) throw tooLarge(device, this.#maximumBytes);
      const index = this.#devices.indexOf(device);
      const header: DeviceFrame = { type: 'device', device: index, sequence: sequence++, last, attempt };
      await abortable(link.write(header, bytes === undefined ? [] : [bytes]), signal);
    };
    const saving = this.calls.begin(device, 'save', (failed) =>
      this.#each(
        signal,
        failed,
        () => device.save(signal),
        async (chunk) => {
          for (const piece of this.#pieces(chunk)) await write(false, piece);
          return true;
        },
      ),
    );
    await abortable(saving, signal);
    await write(true);
  }

  /** Forgets the pieces sent so far: the destination has answered a ping that was sent after them. */
  acknowledged(): void {
    this.#kept = this.#kept.filter(({ sent }) => !sent);
    this.#keptBytes = this.#kept.reduce((sum, { bytes }) => sum + bytes.byteLength, 0);
  }

  /** Handles `loaded`: the destination's device has taken every piece before `sequence`. Throws `GODWIT_PROTOCOL` for one never sent. */
  loaded(device: number, sequence: number): void {
    const waiting = this.#waiting[device];
    if (waiting === undefined || sequence > (this.#sequences[device] as number)) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `"loaded" names piece ${sequence} of device ${device}, which was not sent`,
      );
    }
    for (const [piece, bytes] of waiting) {
      if (piece >= sequence) break;
      waiting.delete(piece);
      this.#waitingBytes -= bytes;
    }
    this.#wakeForRoom?.();
  }

  /**
   * Continues over a new connection. `expected` has, per device, the piece that the destination expects: those before it have
   * arrived, the others are sent again. `resets` says how often the destination has reset each device.
   */
  async resume(expected: readonly number[], resets: readonly number[]): Promise<void> {
    const link = this.#current;
    await this.restartReset(resets);
    for (const [index, next] of this.#sequences.entries()) {
      const first = this.#kept.find(({ header }) => header.device === index)?.header.sequence ?? next;
      const wanted = expected[index];
      if (wanted !== undefined && wanted >= first && wanted <= next) continue;
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `device "${this.#devices[index]?.id}": the destination expects piece ${wanted}; it has acknowledged ${first} and was sent ${next}`,
      );
    }
    for (const piece of this.#kept) piece.sent = piece.header.sequence < (expected[piece.header.device] as number);
    this.#outbox = this.#kept.filter(({ sent }) => !sent);
    await this.#flush(link);
  }

  /** Restarts the devices that the destination has reset since its last report: they yield their state from the first byte. */
  async restartReset(resets: readonly number[]): Promise<void> {
    for (const [index, known] of this.#resets.entries()) {
      const told = resets[index] ?? 0;
      if (told < known)
        throw new GodwitError('GODWIT_PROTOCOL', `device ${index} was reset ${known} times, not ${told}`);
      this.#resets[index] = told;
      if (told > known) await this.#restart(index);
    }
  }

  /** Restarts every device, for a destination that has lost everything. Rejects with `GODWIT_UNSUPPORTED` if one cannot. */
  async restart(): Promise<void> {
    this.#resets.fill(0);
    for (const index of this.#devices.keys()) await this.#restart(index);
  }

  /** Why the guest must not be paused now: a device says so, or is busy. `undefined` when it may be paused. */
  async switchoverBlocker(signal: AbortSignal): Promise<string | undefined> {
    const [busy] = this.calls.busy;
    if (busy !== undefined) return `${busy} has not returned`;
    for (const device of this.#devices) {
      if (device.switchoverBlocker === undefined) continue;
      const asking = this.calls.begin(device, 'tell what blocks', async () => device.switchoverBlocker?.());
      const why = await abortable(asking, signal);
      if (why !== undefined) return `device "${device.id}": ${why}`;
    }
    return undefined;
  }

  get #current(): DeviceLink {
    if (this.#link === undefined) throw new GodwitError('GODWIT_INTERNAL', 'device state before there is a link');
    return this.#link;
  }

  async #restart(index: number): Promise<void> {
    const device = this.#devices[index] as MigratableDevice;
    const begun = (this.#sequences[index] as number) > 0;
    this.#sequences[index] = 0;
    this.#epochs[index] = (this.#epochs[index] as number) + 1;
    for (const bytes of this.#waiting[index]?.values() ?? []) this.#waitingBytes -= bytes;
    this.#waiting[index]?.clear();
    this.#kept = this.#kept.filter(({ header }) => header.device !== index);
    this.#outbox = this.#outbox.filter(({ header }) => header.device !== index);
    this.#keptBytes = this.#kept.reduce((sum, { bytes }) => sum + bytes.byteLength, 0);
    if (device.restart !== undefined) {
      const busy = this.calls.isBusy(device);
      const restarting = this.calls.begin(device, 'begin again with', async () => device.restart?.());
      // The restart follows a pending call of this device. The round does not wait for it.
      if (!busy) await restarting;
      else {
        restarting.catch((error: unknown) => {
          this.#failure ??= { error };
        });
      }
      return;
    }
    if (!begun) return;
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      `the destination has lost the state of device "${device.id}", and the device cannot yield again what it has sent while the guest runs (it has no restart()); start a new migration`,
    );
  }

  /**
   * Writes every chunk in turn, until `write` resolves with false. A failure to write, or the end of the attempt, is not reported as the
   * device's failure.
   */
  async #each(
    signal: AbortSignal,
    failed: (error: unknown) => GodwitError,
    chunks: () => AsyncIterable<Uint8Array> | undefined,
    write: (chunk: Uint8Array) => Promise<boolean>,
  ): Promise<void> {
    let ours: { readonly error: unknown } | undefined;
    try {
      for await (const chunk of chunks() ?? []) {
        if (!(chunk instanceof Uint8Array)) throw new Error(`chunks must be Uint8Arrays, got ${typeof chunk}`);
        try {
          if (!(await write(chunk))) return;
          signal.throwIfAborted();
        } catch (error) {
          ours = { error };
          throw error;
        }
      }
    } catch (error) {
      throw ours === undefined ? failed(error) : ours.error;
    }
  }

  /** Keeps the whole chunk before a byte of it is written, since the device will not yield it again; then sends it. */
  async #iterative(link: DeviceLink, index: number, chunk: Uint8Array): Promise<void> {
    const copy = chunk.slice();
    for (const bytes of this.#pieces(copy)) {
      const sequence = this.#sequences[index] as number;
      this.#sequences[index] = sequence + 1;
      const header: DeviceFrame = { type: 'device', device: index, sequence, last: false, attempt: 0 };
      const piece = { header, bytes, sent: false };
      this.#kept.push(piece);
      this.#outbox.push(piece);
    }
    this.#keptBytes += copy.byteLength;
    await this.#flush(link);
    if (this.#keptBytes < MOST_KEPT_BYTES) return;
    await link.ping();
    this.acknowledged();
  }

  /** Sends the outbox, which may have pieces that were yielded after the previous link was lost. Calls run one after the other. */
  #flush(link: DeviceLink): Promise<void> {
    const before = this.#flushing ?? Promise.resolve();
    const flushing = before
      .catch(() => {})
      .then(() => this.#drain(link))
      .finally(() => {
        if (this.#flushing === flushing) this.#flushing = undefined;
      });
    this.#flushing = flushing;
    return flushing;
  }

  async #drain(link: DeviceLink): Promise<void> {
    for (let piece = this.#outbox[0]; piece !== undefined; piece = this.#outbox[0]) {
      const { device, sequence } = piece.header;
      const bytes = piece.bytes.byteLength;
      const waiting = this.#waiting[device] as Map<number, number>;
      if (!waiting.has(sequence)) await this.#room(link, bytes);
      link.signal.throwIfAborted();
      // The device was restarted while this waited: the piece is void.
      if (this.#outbox[0] !== piece) continue;
      this.#outbox.shift();
      if (!waiting.has(sequence)) this.#waitingBytes += bytes;
      waiting.set(sequence, bytes);
      piece.sent = true;
      await link.write(piece.header, [piece.bytes]);
    }
  }

  /** Waits, with the guest running, until the destination has loaded enough to take `bytes` more. */
  async #room(link: DeviceLink, bytes: number): Promise<void> {
    while (this.#waitingBytes + bytes > this.#maximumBytes) {
      this.#onStall();
      const room = new Promise<void>((resolve) => {
        this.#wakeForRoom = resolve;
      });
      await abortable(room, link.signal);
    }
  }

  *#pieces(chunk: Uint8Array): Generator<Uint8Array> {
    for (let at = 0; at < chunk.byteLength; at += this.#pieceBytes) yield chunk.subarray(at, at + this.#pieceBytes);
  }
}

function tooLarge({ id }: MigratableDevice, maximumBytes: number): GodwitError {
  return new GodwitError(
    'GODWIT_LIMIT_EXCEEDED',
    `device "${id}" saves more than the destination holds before it is loaded (${maximumBytes} bytes, of all devices together); raise maximumDeviceState there`,
  );
}
