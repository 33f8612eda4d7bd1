import type { MigratableDevice } from '../device/migratable-device.js';
import { GodwitError } from '../errors.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { DeviceFrame } from '../protocol/frame.js';
import { type Piece, PieceOrder } from './piece-order.js';
import { type QueuedPiece, StateQueue } from './state-queue.js';

/** The state of a stop-and-copy, held until all of it has come, so that giving up the attempt voids nothing else. */
interface HeldState {
  readonly attempt: number;
  readonly order: PieceOrder;
  /** The pieces that have come in order and were not given to `load`. */
  pieces: Piece[];
  bytes: number;
  /** Bytes of the attempt that have come, whether or not `load` was given them. */
  total: number;
  /** Whether the last piece has come, and every piece before it. */
  ended: boolean;
}

/** Receives one device's state, loads it, and voids it when a stop-and-copy is given up. */
export class IncomingDevice {
  readonly device: MigratableDevice;
  readonly #version: number;
  readonly #onTaken: (piece: QueuedPiece) => void;
  #queue: StateQueue;
  #held: HeldState | undefined;
  /** The pieces that come while the guest runs at the source. */
  #precopy = new PieceOrder();
  #precopyBytes = 0;
  /** Of the pieces that came while the guest ran: `load` has taken every one before this sequence. */
  loadedSequence = 0;
  /** Of the attempt that is loaded before `switchover`: `load` has taken every piece before this sequence. */
  loadedOfAttempt = 0;
  /** How often the device was reset. */
  resets = 0;
  #loading: Promise<void> | undefined;
  /** True once pieces of a stop-and-copy, or the end of the state, are given to `load`. */
  #committed = false;
  /** How many pieces come before those of the stop-and-copy. */
  #precopyPieces = 0;
  /** The pending reset: it must settle before the device is called again. */
  #clearing: Promise<void> | undefined;
  #preparing: Promise<void> | undefined;

  /** `onTaken` is called with each piece once `load` has taken it; with pieces of a stop-and-copy only while they are loaded early. */
  constructor(device: MigratableDevice, version: number, onTaken: (piece: QueuedPiece) => void) {
    this.device = device;
    this.#version = version;
    this.#onTaken = (piece) => {
      if (piece.attempt === 0) this.loadedSequence = piece.sequence + 1;
      else this.loadedOfAttempt = piece.sequence + 1;
      onTaken(piece);
    };
    this.#queue = new StateQueue(this.#onTaken);
  }

  /** The sequence of the next piece that is expected while the guest runs at the source. */
  get nextSequence(): number {
    return this.#precopy.next;
  }

  /** Bytes that have come and are not loaded. */
  get pendingBytes(): number {
    return this.#queue.pendingBytes + this.#precopy.aheadBytes + (this.#held?.bytes ?? 0);
  }

  /** Number of the pieces that have come and are not loaded. */
  get pendingPieces(): number {
    return this.#queue.pendingPieces + (this.#held?.pieces.length ?? 0) + this.aheadCount;
  }

  /** Number of the pieces that wait for a piece before them. */
  get aheadCount(): number {
    return this.#precopy.aheadCount + (this.#held?.order.aheadCount ?? 0);
  }

  /** Bytes that have come of the state that is being received, loaded or not. */
  get stateBytes(): number {
    return this.#precopyBytes + (this.#held?.total ?? 0);
  }

  /** Sequence of the next piece, of pre-copy (attempt 0) or of a stop-and-copy; `undefined` when no piece may come. */
  expected(attempt: number): number | undefined {
    if (attempt === 0) return this.#committed || this.#held !== undefined ? undefined : this.nextSequence;
    if (this.#held === undefined || this.#held.attempt !== attempt) return 0;
    return this.#held.ended ? undefined : this.#held.order.next;
  }

  /** Whether this piece may come where pieces come in any order: it has not come yet, and is not after the last one. */
  isMissing({ attempt, sequence }: DeviceFrame): boolean {
    if (attempt === 0) {
      return !this.#precopy.has(sequence) && !(this.#committed && sequence >= this.#precopyPieces);
    }
    if (this.#held?.attempt !== attempt) return true;
    return !this.#held.ended && !this.#held.order.has(sequence);
  }

  /** Whether the piece belongs to a state that a reset has voided: it was sent before the source knew of the reset. */
  isVoid({ attempt, resets = this.resets }: DeviceFrame): boolean {
    return attempt === 0 && resets < this.resets;
  }

  /** The number of pieces of pre-copy (attempt 0) or of a stop-and-copy that have come without a gap. */
  arrived(attempt: number): number {
    if (attempt === 0) return this.#precopy.next;
    return this.#held?.attempt === attempt ? this.#held.order.next : 0;
  }

  /** Takes a piece that comes while the guest runs; the first one calls `load`. */
  take(piece: Piece): void {
    this.#precopyBytes += piece.bytes.byteLength;
    for (const { bytes, sequence } of this.#precopy.put(piece)) this.#queue.push({ bytes, sequence, attempt: 0 });
    if (this.#precopy.next > 0) void this.#load();
    this.#loadHeld();
  }

  /** Holds a piece of a stop-and-copy; gives the piece to `load` if the attempt is loaded early. */
  hold(attempt: number, piece: Piece): void {
    if (this.#held?.attempt !== attempt) {
      this.#held = { attempt, order: new PieceOrder(), pieces: [], bytes: 0, total: 0, ended: false };
    }
    const held = this.#held;
    held.bytes += piece.bytes.byteLength;
    held.total += piece.bytes.byteLength;
    for (const next of held.order.put(piece)) {
      if (held.ended) {
        throw new GodwitError(
          'GODWIT_PROTOCOL',
          `device "${this.device.id}": piece ${next.sequence} of attempt ${attempt} follows the last one`,
        );
      }
      held.pieces.push(next);
      held.ended ||= next.last;
    }
    this.#loadHeld();
  }

  /** Whether all state of this attempt has come, and the `precopyPieces` pieces before it. */
  isComplete(attempt: number, precopyPieces = 0): boolean {
    return this.#held?.attempt === attempt && this.#held.ended && this.#precopy.next >= precopyPieces;
  }

  /**
   * Loads the rest of the state, after `precopyPieces` pieces; pieces that have not come yet are loaded as they come. Rejects with
   * `GODWIT_DEVICE_FAILED` when the device fails or leaves state unread.
   */
  async commit(precopyPieces = 0): Promise<void> {
    this.#committed = true;
    this.#precopyPieces = precopyPieces;
    this.loadedOfAttempt = 0;
    const queue = this.#queue;
    this.#loadHeld();
    await this.#load();
    if (queue !== this.#queue || (queue.pendingBytes === 0 && queue.ended)) return;
    throw this.#failed(
      new Error(
        queue.ended
          ? `it left ${queue.pendingBytes} bytes of it unread`
          : 'load() has returned before the end of the state: it must read to the last byte',
      ),
    );
  }

  /**
   * Resolves when every piece before `sequence` is loaded and the device's `prepared` has resolved. `taken` resolves when `load` takes
   * its next piece.
   */
  async prepared(sequence: number, taken: () => Promise<void>): Promise<void> {
    await this.#clearing;
    this.#preparing ??= Promise.resolve(this.device.prepared?.());
    await this.#preparing;
    while (this.loadedSequence < sequence) await taken();
  }

  /**
   * Voids the state of a stop-and-copy that was given up, and the state of pre-copy too, if the device says so (`backVoids`) or `load`
   * was given a part of the stop-and-copy's. Once the pending load has settled, the pages that it has written are added to `written` and
   * the device is reset. Throws `GODWIT_DEVICE_FAILED` when the device cannot go back; `onFailure` is called when its reset fails.
   */
  goBack(written: DirtyBitmaps, onFailure: (error: GodwitError) => void): void {
    const { device } = this;
    const committed = this.#committed;
    this.#held = undefined;
    this.loadedOfAttempt = 0;
    this.#committed = false;
    const everything = device.backVoids === 'everything' || (committed && this.nextSequence > 0);
    const begun = this.#loading !== undefined;
    if (!committed && !(everything && (begun || this.nextSequence > 0))) return;
    if (everything && device.reset === undefined) {
      throw new GodwitError(
        'GODWIT_DEVICE_FAILED',
        `the switchover was given up after device "${device.id}" was handed the end of its state, and its state cannot be loaded again (it has no reset()); the guest stays at the source: start a new migration`,
      );
    }
    const loading = this.#loading ?? Promise.resolve();
    this.#queue.fail(new GodwitError('GODWIT_CANCELLED', 'the source has given the switchover up'));
    this.#queue = new StateQueue(this.#onTaken);
    this.#loading = undefined;
    if (everything) {
      // Pieces that have overtaken one of the voided state are void too.
      this.#precopy = new PieceOrder();
      this.#precopyBytes = 0;
      this.loadedSequence = 0;
      this.resets++;
      this.#preparing = undefined;
    }
    this.#clearing = (async () => {
      await loading.catch(() => {});
      if (begun || committed) this.#addWritten(written);
      await device.reset?.();
    })();
    this.#clearing.catch((error: unknown) => onFailure(this.#failed(error, 'reset')));
  }

  /** Forgets the pieces that have overtaken a piece which was lost with its connection. */
  forgetAhead(): void {
    this.#precopyBytes -= this.#precopy.forgetAhead();
    const held = this.#held;
    if (held === undefined) return;
    const bytes = held.order.forgetAhead();
    held.bytes -= bytes;
    held.total -= bytes;
  }

  /** Resolves when no `load` and no `reset` is pending. */
  async idle(): Promise<void> {
    await this.#clearing?.catch(() => {});
    await this.#loading?.catch(() => {});
  }

  /** Ends a load that waits for more state, with `error`. */
  fail(error: GodwitError): void {
    this.#queue.fail(error);
  }

  /** Gives the held pieces to `load`, in order, once they are committed and every piece of pre-copy has come. */
  #loadHeld(): void {
    const held = this.#held;
    if (!this.#committed || held === undefined || this.#precopy.next < this.#precopyPieces) return;
    for (const { bytes, sequence } of held.pieces) {
      held.bytes -= bytes.byteLength;
      this.#queue.push({ bytes, sequence, attempt: held.attempt });
    }
    held.pieces = [];
    if (held.ended) this.#queue.end();
  }

  #load(): Promise<void> {
    if (this.#loading !== undefined) return this.#loading;
    const queue = this.#queue;
    const before = this.#clearing;
    this.#loading = (async () => {
      await before;
      try {
        await this.device.load(queue, this.#version);
      } catch (error) {
        throw this.#failed(error);
      }
    })();
    this.#loading.catch(() => {});
    return this.#loading;
  }

  /** The pending load, which rejects when the device fails. */
  get loading(): Promise<void> | undefined {
    return this.#loading;
  }

  #addWritten(written: DirtyBitmaps): void {
    const pages = this.device.loadWrites?.();
    if (pages === undefined) written.setAll();
    else for (const { block, firstPage, pageCount } of pages) written.at(block).setRange(firstPage, pageCount);
  }

  #failed(error: unknown, what = 'load'): GodwitError {
    return new GodwitError(
      'GODWIT_DEVICE_FAILED',
      `device "${this.device.id}" failed to ${what} its state (version ${this.#version}): ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    );
  }
}
