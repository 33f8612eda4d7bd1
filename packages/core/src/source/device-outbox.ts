import { abortable, underAll } from '../abortable.js';
import type { Clock } from '../clock.js';
import type { MigratableDevice } from '../device/migratable-device.js';
import { GodwitError } from '../errors.js';
import type { DeviceFrame, Frame } from '../protocol/frame.js';
import { MOST_PIECES } from '../protocol/negotiate.js';
import type { BandwidthLimit } from './bandwidth-limit.js';
import type { DeviceChannels, FreePlace } from './device-channels.js';

/** Most bytes of device state in one frame. */
const PIECE_BYTES = 2 ** 20;

/** The most pieces that are in flight on page channels before an answer that all have arrived: some may overtake others. */
export const MOST_UNANSWERED = 1024;

/**
 * A piece of fewer bytes goes over the control stream even where there are page channels: handing it to another thread takes longer than
 * writing it, up to some milliseconds where the processors are busy. The state of a vCPU is such a piece.
 */
const LEAST_CHANNEL_BYTES = 16 * 1024;

/** The part of a connection that device state needs. */
export interface DeviceLink {
  readonly signal: AbortSignal;
  write(frame: Frame, payload?: readonly Uint8Array[]): Promise<void>;
  ping(): Promise<number>;
  /** The page channels that take pieces of device state; undefined: the pieces go over the control stream, in order. */
  readonly deviceChannels?: DeviceChannels | undefined;
  /** Whether the destination loads state before `switchover` when it is told to. Default false. */
  readonly loadsEarly?: boolean;
  /** With `deviceChannels`: resolves when these pieces have arrived; see `AwaitPiecesFrame`. */
  arrived?(attempt: number, deviceSequences: readonly number[]): Promise<void>;
}

/** A piece that the destination has not acknowledged, as it was sent. */
interface KeptPiece {
  readonly header: DeviceFrame;
  readonly bytes: Uint8Array;
  sent: boolean;
}

export interface OutboxParts {
  /** Limits the rate of pieces that are sent while the guest runs. Default: no limit. */
  readonly limit?: BandwidthLimit | undefined;
  /** Called when a piece is about to be written. */
  readonly onWrite?: (() => void) | undefined;
  /** The clock with which the waits for the link and the times of devices are measured. Default: they are not measured. */
  readonly clock?: Clock | undefined;
}

/**
 * The pieces of device state that are sent while the guest runs: numbered, kept until the destination has acknowledged them, and sent
 * in order, within what the destination holds and within the bandwidth limit.
 *
 * A device does not yield the same state twice while the guest runs, so a copy of each piece is kept until the destination is known to have
 * the piece. After a lost link the piece is sent again over the next connection.
 */
export class DeviceOutbox {
  readonly #devices: readonly MigratableDevice[];
  readonly #parts: OutboxParts;
  /** Per device: the sequence of the next piece. */
  readonly sequences: number[];
  /** Per device: bytes of each piece that was sent and that the destination's `load` has not taken, by sequence. */
  readonly #waiting: Map<number, number>[];
  #waitingBytes = 0;
  #waitingPieces = 0;
  /** Bytes of the pieces of a stop-and-copy that the destination holds, and their number. */
  attemptBytes = 0;
  attemptPieces = 0;
  #onChange: (() => void)[] = [];
  /** Per device: how often the destination has reset it, by its last report. */
  readonly resets: number[];
  /** Pieces that were sent since an answer that all had arrived. */
  #unanswered = 0;
  /** Called when a piece has to wait for room at the destination: the round goes on without the piece's device. */
  onStall: () => void = () => {};
  /** Called when a piece waits for the bandwidth limit: `resume` does not wait with it. */
  #onLimit: () => void = () => {};
  #kept: KeptPiece[] = [];
  /** The kept pieces that are still to be sent over the present connection, in order. */
  #pending: KeptPiece[] = [];
  #flushing: Promise<void> | undefined;
  #keptBytes = 0;
  #link: DeviceLink | undefined;
  #pieceBytes = PIECE_BYTES;
  #maximumBytes = Number.POSITIVE_INFINITY;
  /** Aborts when the bandwidth limit no longer holds the pieces back. */
  #hurry = new AbortController();
  #writtenBytes = 0;
  #linkMs = 0;

  constructor(devices: readonly MigratableDevice[], parts: OutboxParts = {}) {
    this.#devices = devices;
    this.#parts = parts;
    this.sequences = devices.map(() => 0);
    this.resets = devices.map(() => 0);
    this.#waiting = devices.map(() => new Map());
  }

  use(link: DeviceLink, maximumPayload: number, maximumDeviceState: number): void {
    this.#link = link;
    this.#unanswered = 0;
    this.#pieceBytes = Math.max(1, Math.min(PIECE_BYTES, maximumPayload, maximumDeviceState));
    this.#maximumBytes = maximumDeviceState;
  }

  get link(): DeviceLink {
    if (this.#link === undefined) throw new GodwitError('GODWIT_INTERNAL', 'device state before there is a link');
    return this.#link;
  }

  /** The most bytes of a piece. */
  get pieceBytes(): number {
    return this.#pieceBytes;
  }

  /** The most bytes that the destination holds before its devices have loaded them. */
  get maximumBytes(): number {
    return this.#maximumBytes;
  }

  /** Whether the destination has room for another piece of `bytes` bytes, and for `others` full ones beside it. */
  hasRoom(bytes: number, others = 0): boolean {
    const held = this.#waitingBytes + this.attemptBytes + bytes + others * this.#pieceBytes;
    return held <= this.#maximumBytes && this.#waitingPieces + this.attemptPieces + others < MOST_PIECES;
  }

  /** Whether there would be no room even if all pieces of pre-copy were loaded. */
  isFull(bytes: number): boolean {
    return this.attemptBytes + bytes > this.#maximumBytes || this.attemptPieces >= MOST_PIECES;
  }

  /** Bytes of device state that were written, framing not included; pieces that were sent again count again. */
  get writtenBytes(): number {
    return this.#writtenBytes;
  }

  /** Milliseconds in which a piece of pre-copy waited for the link, and for nothing else. */
  get linkMs(): number {
    return this.#linkMs;
  }

  /** Bytes that the destination has not acknowledged. */
  get keptBytes(): number {
    return this.#keptBytes;
  }

  get flushing(): boolean {
    return this.#flushing !== undefined;
  }

  /** Applies the bandwidth limit from now on: the guest runs. */
  limited(): void {
    if (this.#hurry.signal.aborted) this.#hurry = new AbortController();
  }

  /** Applies no bandwidth limit from now on: the guest is paused, or about to be paused by force. */
  unlimited(): void {
    this.#hurry.abort();
  }

  /** Writes a frame of device state, and counts it: to the page channel of `place`, else to the control stream. */
  async write(link: DeviceLink, header: DeviceFrame, bytes?: Uint8Array, place?: FreePlace): Promise<void> {
    this.#parts.onWrite?.();
    if (place === undefined) await link.write(header, bytes === undefined ? [] : [bytes]);
    else {
      // Pieces of pre-copy are copies already.
      const copy = bytes === undefined ? new Uint8Array() : header.attempt > 0 ? bytes.slice() : bytes;
      await place.send({ ...header, resets: this.resets[header.device] ?? 0 }, copy);
    }
    this.#writtenBytes += bytes?.byteLength ?? 0;
  }

  /** Resolves when the destination has loaded more, or `changed` was called. */
  change(): Promise<void> {
    return new Promise((resolve) => this.#onChange.push(resolve));
  }

  /** Wakes the calls that wait for room. */
  changed(): void {
    for (const wake of this.#onChange.splice(0)) wake();
  }

  /** Keeps the whole chunk before a byte of it is written, since the device will not yield it again. */
  add(index: number, chunk: Uint8Array): void {
    const copy = chunk.slice();
    for (const bytes of this.pieces(copy, this.#parts.limit?.most)) {
      const sequence = this.sequences[index] as number;
      this.sequences[index] = sequence + 1;
      const header: DeviceFrame = { type: 'device', device: index, sequence, last: false, attempt: 0 };
      const piece = { header, bytes, sent: false };
      this.#kept.push(piece);
      this.#pending.push(piece);
    }
    this.#keptBytes += copy.byteLength;
  }

  /**
   * Asks whether the pieces that were sent so far have arrived. Returns a function that waits for the answer and then forgets these pieces.
   * Over the control stream no question is sent: the caller sends a ping instead, and awaits its answer first.
   */
  arrival(): () => Promise<void> {
    const link = this.link;
    const sent = new Set(this.#kept.filter((piece) => piece.sent));
    const asking =
      link.deviceChannels !== undefined && sent.size > 0 ? link.arrived?.(0, this.#sentSequences()) : undefined;
    asking?.catch(() => {});
    return async () => {
      await asking;
      this.#kept = this.#kept.filter((piece) => !sent.has(piece));
      this.#keptBytes = this.#kept.reduce((sum, { bytes }) => sum + bytes.byteLength, 0);
    };
  }

  /** Waits until the pieces that were sent so far have arrived, and forgets them. */
  async settle(): Promise<void> {
    const link = this.link;
    const start = this.#now();
    const arrived = this.arrival();
    if (link.deviceChannels === undefined) await link.ping();
    await arrived();
    this.#linkMs += this.#now() - start;
  }

  /** Per device: the sequence of the first piece that was not sent yet. */
  #sentSequences(): readonly number[] {
    const sequences = [...this.sequences];
    for (const { header } of [...this.#pending].reverse()) sequences[header.device] = header.sequence;
    return sequences;
  }

  /**
   * Handles `loaded`: the destination's device has taken every piece before `sequence`. Throws `GODWIT_PROTOCOL` for a piece that was never
   * sent.
   */
  loaded(device: number, sequence: number): void {
    const waiting = this.#waiting[device];
    if (waiting === undefined || sequence > (this.sequences[device] as number)) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `"loaded" names piece ${sequence} of device ${device}, which was not sent`,
      );
    }
    for (const [piece, bytes] of waiting) {
      if (piece >= sequence) break;
      waiting.delete(piece);
      this.#waitingBytes -= bytes;
      this.#waitingPieces--;
    }
    this.changed();
  }

  /**
   * Sends again the pieces that the destination has not received: `expected` has, per device, the piece that the destination expects next.
   * Resolves when the pieces were sent, or when they have to wait for the bandwidth limit: rounds go on meanwhile.
   */
  async resume(expected: readonly number[]): Promise<void> {
    const { link } = this;
    for (const [index, next] of this.sequences.entries()) {
      const first = this.#kept.find(({ header }) => header.device === index)?.header.sequence ?? next;
      const wanted = expected[index];
      if (wanted !== undefined && wanted >= first && wanted <= next) continue;
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `device "${this.#devices[index]?.id}": the destination expects piece ${wanted}; it has acknowledged ${first} and was sent ${next}`,
      );
    }
    for (const piece of this.#kept) piece.sent = piece.header.sequence < (expected[piece.header.device] as number);
    this.#pending = this.#kept.filter(({ sent }) => !sent);
    const waits = new Promise<void>((resolve) => {
      this.#onLimit = resolve;
    });
    await Promise.race([this.flush(link), waits]);
  }

  /** Forgets the pieces of a device that begins again with the first one. */
  restart(index: number): void {
    this.sequences[index] = 0;
    const waiting = this.#waiting[index] as Map<number, number>;
    for (const bytes of waiting.values()) this.#waitingBytes -= bytes;
    this.#waitingPieces -= waiting.size;
    waiting.clear();
    this.#kept = this.#kept.filter(({ header }) => header.device !== index);
    this.#pending = this.#pending.filter(({ header }) => header.device !== index);
    this.#keptBytes = this.#kept.reduce((sum, { bytes }) => sum + bytes.byteLength, 0);
    this.changed();
  }

  /** Sends the pending pieces, which may include pieces from before the link was lost. Calls run one after the other. */
  flush(link: DeviceLink): Promise<void> {
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

  /** Cuts a chunk into pieces of at most `most` bytes that the destination takes. */
  *pieces(chunk: Uint8Array, most = Number.POSITIVE_INFINITY): Generator<Uint8Array> {
    const step = Math.max(1, Math.min(this.#pieceBytes, most));
    for (let at = 0; at < chunk.byteLength; at += step) yield chunk.subarray(at, at + step);
  }

  async #drain(link: DeviceLink): Promise<void> {
    const writing: Promise<void>[] = [];
    for (let piece = this.#pending[0]; piece !== undefined; piece = this.#pending[0]) {
      const { device, sequence } = piece.header;
      const bytes = piece.bytes.byteLength;
      const waiting = this.#waiting[device] as Map<number, number>;
      if (!waiting.has(sequence)) await this.#room(link, bytes);
      await this.#allowance(link);
      if (link.deviceChannels !== undefined && this.#unanswered >= MOST_UNANSWERED) {
        await this.settle();
        this.#unanswered = 0;
      }
      const start = this.#now();
      const place = await placeFor(link, bytes);
      // When the link was lost or the device was restarted during the wait, the piece is void.
      if (link.signal.aborted || this.#pending[0] !== piece) {
        place?.giveBack();
        link.signal.throwIfAborted();
        continue;
      }
      this.#pending.shift();
      this.#unanswered++;
      if (!waiting.has(sequence)) {
        this.#waitingBytes += bytes;
        this.#waitingPieces++;
      }
      waiting.set(sequence, bytes);
      piece.sent = true;
      const written = this.write(link, piece.header, piece.bytes, place);
      written.catch(() => {});
      if (place === undefined) await written;
      else writing.push(written);
      this.#linkMs += this.#now() - start;
    }
    const start = this.#now();
    await Promise.all(writing);
    this.#linkMs += this.#now() - start;
  }

  #now(): number {
    return this.#parts.clock?.now() ?? 0;
  }

  /** Waits, with the guest running, until the destination has loaded enough to take `bytes` more. */
  async #room(link: DeviceLink, bytes: number): Promise<void> {
    while (!this.hasRoom(bytes)) {
      this.onStall();
      await abortable(this.change(), link.signal);
    }
  }

  /** Waits until the bandwidth limit allows another piece. */
  async #allowance(link: DeviceLink): Promise<void> {
    const { limit } = this.#parts;
    const hurry = this.#hurry.signal;
    if (limit === undefined || hurry.aborted || limit.open) return;
    this.#onLimit();
    try {
      await underAll([link.signal, hurry], (either) => limit.wait(either));
    } catch (error) {
      if (link.signal.aborted || !hurry.aborted) throw error;
    }
  }
}

/** A place in a page channel for a piece of so many bytes; `undefined` when the piece goes over the control stream. */
export async function placeFor(
  { deviceChannels }: DeviceLink,
  bytes: number,
  giveUp?: AbortSignal,
): Promise<FreePlace | undefined> {
  return bytes < LEAST_CHANNEL_BYTES ? undefined : deviceChannels?.free(giveUp);
}
