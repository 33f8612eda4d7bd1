import type { MigratableDevice } from '../device/migratable-device.js';
import { GodwitError } from '../errors.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import { StateQueue } from './state-queue.js';

/** The state of a stop-and-copy, held until all of it has come, so that giving up the attempt voids nothing else. */
interface HeldState {
  readonly attempt: number;
  readonly pieces: Uint8Array[];
  bytes: number;
  ended: boolean;
}

/** Receives one device's state, loads it, and voids it when a stop-and-copy is given up. */
export class IncomingDevice {
  readonly device: MigratableDevice;
  readonly #version: number;
  readonly #onTaken: (sequence: number, bytes: number) => void;
  #queue: StateQueue;
  #held: HeldState | undefined;
  /** The sequence of the next piece that is expected while the guest runs at the source. */
  nextSequence = 0;
  /** Every piece before this one was taken by `load`. */
  loadedSequence = 0;
  /** How often the device was reset. */
  resets = 0;
  #loading: Promise<void> | undefined;
  /** True once the end of the state was given to `load`. */
  #committed = false;
  /** The pending reset: it must settle before the device is called again. */
  #clearing: Promise<void> | undefined;
  #preparing: Promise<void> | undefined;

  /** `onTaken` is called with the bytes of each piece that came while the guest ran, once `load` has taken it. */
  constructor(device: MigratableDevice, version: number, onTaken: (bytes: number) => void) {
    this.device = device;
    this.#version = version;
    this.#onTaken = (sequence, bytes) => {
      if (sequence < 0) return;
      this.loadedSequence = sequence + 1;
      onTaken(bytes);
    };
    this.#queue = new StateQueue(this.#onTaken);
  }

  /** Bytes that have come and are not loaded. */
  get pendingBytes(): number {
    return this.#queue.pendingBytes + (this.#held?.bytes ?? 0);
  }

  /** Sequence of the next piece, of pre-copy (attempt 0) or of a stop-and-copy; `undefined` when no piece may come. */
  expected(attempt: number): number | undefined {
    if (attempt === 0) return this.#committed || this.#held !== undefined ? undefined : this.nextSequence;
    if (this.#held === undefined || this.#held.attempt !== attempt) return 0;
    return this.#held.ended ? undefined : this.#held.pieces.length;
  }

  /** Takes a piece that comes while the guest runs; the first one calls `load`. */
  take(bytes: Uint8Array): void {
    this.#queue.push(bytes, this.nextSequence++);
    void this.#load();
  }

  /** Holds a piece of a stop-and-copy. */
  hold(attempt: number, bytes: Uint8Array, last: boolean): void {
    if (this.#held?.attempt !== attempt) this.#held = { attempt, pieces: [], bytes: 0, ended: false };
    this.#held.pieces.push(bytes);
    this.#held.bytes += bytes.byteLength;
    this.#held.ended = last;
  }

  /** Whether all state of this attempt has come. */
  isComplete(attempt: number): boolean {
    return this.#held?.attempt === attempt && this.#held.ended;
  }

  /** Loads the rest. Rejects with `GODWIT_DEVICE_FAILED` when the device fails or leaves state unread. */
  async commit(): Promise<void> {
    this.#committed = true;
    const queue = this.#queue;
    for (const bytes of this.#held?.pieces ?? []) queue.push(bytes, -1);
    this.#held = undefined;
    queue.end();
    await this.#load();
    if (queue.pendingBytes === 0 || queue !== this.#queue) return;
    throw this.#failed(new Error(`it left ${queue.pendingBytes} bytes of it unread`));
  }

  /** Resolves when every piece before `sequence` is loaded and the device's `prepared` has resolved. `taken`: the next progress. */
  async prepared(sequence: number, taken: () => Promise<void>): Promise<void> {
    await this.#clearing;
    this.#preparing ??= Promise.resolve(this.device.prepared?.());
    await this.#preparing;
    while (this.loadedSequence < sequence) await taken();
  }

  /**
   * Voids the state of a stop-and-copy that was given up; the state before it too, if the device says so (`backVoids`) or `load` was
   * given the end. Once the pending load has settled, the pages that it has written are added to `written` and the device is reset.
   * Throws `GODWIT_DEVICE_FAILED` when the device cannot go back; `onFailure` is called when its reset fails.
   */
  goBack(written: DirtyBitmaps, onFailure: (error: GodwitError) => void): void {
    const { device } = this;
    const committed = this.#committed;
    this.#held = undefined;
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
      this.nextSequence = 0;
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

  /** Resolves when no `load` and no `reset` is pending. */
  async idle(): Promise<void> {
    await this.#clearing?.catch(() => {});
    await this.#loading?.catch(() => {});
  }

  /** Ends a load that waits for more state, with `error`. */
  fail(error: GodwitError): void {
    this.#queue.fail(error);
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
