import {
  type DirtyBitmap,
  GodwitError,
  type PagesToProtect,
  type ProtectedMemory,
  type ProtectionStatus,
} from '@godwit/core';
import type { MappedGuestMemory, SharedUserfaultfd } from '@godwit/linux';
import { closeFd, eventfd, MapFlags, mmap, munmap, writeFd } from '@godwit/linux/unstable';
import { FaultStatistics } from '../missing/fault-statistics.js';
import { nowUs } from '../missing/now-us.js';
import type { ServiceThread } from '../missing/service-thread-pool.js';
import { CopyBuffer } from './copy-buffer.js';
import { bitmapsIn, OwedPages, sharedBitmaps } from './owed-pages.js';
import { ControlWord, Figure, type ProtectedParts, type ProtectOrder, type ProtectReport } from './protect-messages.js';

/** The shortest time over which a rate is measured. Milliseconds. */
const RATE_MS = 100;

/** A promise with its `resolve` and `reject`, whose rejection is never unhandled. */
class Moment<T> {
  readonly promise: Promise<T>;
  resolve: (value: T) => void = () => {};
  reject: (error: GodwitError) => void = () => {};

  constructor() {
    this.promise = new Promise<T>((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    this.promise.catch(() => {});
  }
}

/** Guest memory that two threads protect and save: the main thread's part of it. */
export class ProtectedThreads implements ProtectedMemory {
  readonly #memory: MappedGuestMemory;
  readonly #user: SharedUserfaultfd;
  readonly #threads: readonly ServiceThread[];
  readonly #bufferBytes: number;
  readonly #buffer: bigint;
  readonly #owed: OwedPages;
  readonly #written: readonly DirtyBitmap[];
  readonly #copies: CopyBuffer;
  readonly #statistics = new FaultStatistics();
  readonly #control = new Int32Array(new SharedArrayBuffer(ControlWord.count * 4));
  readonly #figures = new Float64Array(new SharedArrayBuffer(Figure.count * 8));
  readonly #wake = eventfd(0);
  readonly #serving = new Moment<void>();
  readonly #protected = new Moment<void>();
  readonly #frozen = new Moment<number>();
  readonly #saved = new Moment<void>();
  #rate = { at: performance.now(), faults: 0, perSecond: 0 };
  #ending: Promise<void> | undefined;
  /** Each allows the pages of a block to be given back to the host again. */
  #unpins: readonly (() => void)[] = [];
  /** Ends the threads at `process.exit`, which waits for them. */
  readonly #onExit = (): void => this.#stop();

  /** `user`: the registered ranges. `threads`: the thread for faults and the thread that saves, both ready. */
  constructor(
    memory: MappedGuestMemory,
    { contents, target }: PagesToProtect,
    user: SharedUserfaultfd,
    threads: readonly [faults: ServiceThread, saving: ServiceThread],
    bufferBytes: number,
  ) {
    this.#memory = memory;
    this.#user = user;
    this.#threads = threads;
    const { pageSize, blocks } = memory;
    const slots = Math.max(1, Math.floor(bufferBytes / pageSize));
    this.#bufferBytes = slots * pageSize;
    const flags = MapFlags.MAP_PRIVATE | MapFlags.MAP_ANONYMOUS | MapFlags.MAP_NORESERVE;
    this.#buffer = mmap({ byteLength: this.#bufferBytes, flags });
    const pageCounts = contents.blocks.map(({ pageCount }) => pageCount);
    const [owed, written] = [sharedBitmaps(pageCounts), sharedBitmaps(pageCounts)];
    this.#owed = new OwedPages(owed, pageCounts);
    this.#written = bitmapsIn(written, pageCounts);
    for (const [i, bitmap] of this.#owed.bitmaps.entries()) bitmap.or(contents.at(i));
    const copies = CopyBuffer.parts(Number(this.#buffer), slots, pageSize);
    this.#copies = new CopyBuffer(copies);
    const parts: ProtectedParts = {
      uffd: user.uffd.fd,
      pageSize,
      blocks: blocks.map(({ hostAddress, byteLength }) => ({ address: Number(hostAddress), byteLength })),
      ...{ owed, written, copies, target },
      statistics: this.#statistics.storage,
      control: this.#control.buffer as SharedArrayBuffer,
      figures: this.#figures.buffer as SharedArrayBuffer,
      wake: this.#wake,
    };
    process.once('exit', this.#onExit);
    const [faults, saving] = threads;
    this.#give(saving, { role: 'saving', parts });
    // The memory is protected only after the saving thread has its target.
    void this.#serving.promise.then(
      () => this.#ending ?? this.#give(faults, { role: 'faults', parts }),
      () => {},
    );
  }

  get saved(): Promise<void> {
    return this.#saved.promise;
  }

  /** Resolves when all memory is protected; rejects when it cannot be. */
  protected(): Promise<void> {
    return this.#protected.promise;
  }

  freeze(): Promise<number> {
    if (this.#ending !== undefined) return Promise.reject(ended());
    // A page that is given back to the host before it is saved would be zero in the snapshot, whose guest still has it.
    this.#unpins = this.#memory.blocks.map((block) => block.pinBytes(0, block.byteLength));
    this.#addPopulated();
    this.#figures[Figure.total] = this.#owed.bitmaps.reduce((sum, bitmap) => sum + bitmap.count(), 0);
    Atomics.store(this.#control, ControlWord.freeze, 1);
    this.#wakeUp();
    return this.#frozen.promise;
  }

  limit(bytesPerSecond: number): void {
    this.#figures[Figure.limit] = bytesPerSecond;
  }

  status(): ProtectionStatus {
    const { faults, latencyDistribution, worstLatencyUs, blocked } = this.#statistics.read(nowUs());
    const now = performance.now();
    const { at, faults: before } = this.#rate;
    if (now - at >= RATE_MS) {
      this.#rate = { at: now, faults, perSecond: ((faults - before) / (now - at)) * 1000 };
    }
    const figure = (which: number): number => this.#figures[which] as number;
    const { pageSize } = this.#memory;
    const total = figure(Figure.total);
    return {
      pagesTotal: total,
      pagesLeft: Math.max(0, total - figure(Figure.copied) - figure(Figure.read)),
      pagesCopied: figure(Figure.copied),
      writtenBytes: figure(Figure.written),
      faults,
      faultsPerSecond: this.#rate.perSecond,
      faultsWithoutRoom: figure(Figure.withoutRoom),
      ...{ latencyDistribution, worstLatencyUs, blocked },
      bufferBytes: this.#bufferBytes,
      bufferedBytes: this.#copies.used * pageSize,
      bufferHighBytes: this.#copies.high * pageSize,
    };
  }

  end(): Promise<void> {
    this.#ending ??= this.#end();
    return this.#ending;
  }

  /**
   * Adds the pages that were populated since the memory was protected: holes cannot be protected, so only former holes are looked
   * at again.
   */
  #addPopulated(): void {
    for (const [i, block] of this.#memory.blocks.entries()) {
      const owed = this.#owed.bitmaps[i] as DirtyBitmap;
      const written = this.#written[i] as DirtyBitmap;
      const pages = owed.pageCount;
      for (let first = owed.nextClean(0); first < pages; ) {
        const next = owed.nextDirty(first);
        const end = next === -1 ? pages : next;
        for (const run of block.populated({ firstPage: first, pageCount: end - first })) {
          owed.setRange(run.firstPage, run.pageCount);
          written.setRange(run.firstPage, run.pageCount);
        }
        first = next === -1 ? pages : owed.nextClean(end);
      }
    }
  }

  /** Sends a thread its order. */
  #give({ worker, ended: over }: ServiceThread, order: ProtectOrder): void {
    worker.ref();
    worker.on('message', (report: ProtectReport) => this.#handle(report));
    worker.once('error', (error: unknown) => this.#fail(new GodwitError('GODWIT_INTERNAL', String(error))));
    void over.then(() => {
      // The saving thread ends by itself when all pages are saved.
      this.#fail(new GodwitError('GODWIT_INTERNAL', `the thread of the ${order.role} has ended`));
    });
    worker.postMessage({ order });
  }

  #handle(report: ProtectReport): void {
    switch (report.type) {
      case 'serving':
        this.#serving.resolve();
        return;
      case 'protected':
        this.#protected.resolve();
        return;
      case 'frozen':
        this.#frozen.resolve(report.pages);
        return;
      case 'saved':
        this.#saved.resolve();
        return;
      case 'failed':
        this.#fail(new GodwitError(report.code, report.message));
        return;
      default:
    }
  }

  /** Handles a failure: writes go through from now on, and the snapshot is worthless. */
  #fail(error: GodwitError): void {
    for (const moment of [this.#serving, this.#protected, this.#frozen, this.#saved]) moment.reject(error);
  }

  #stop(): void {
    Atomics.store(this.#control, ControlWord.stop, 1);
    Atomics.notify(this.#control, ControlWord.mode);
    this.#copies.announce();
    this.#wakeUp();
  }

  #wakeUp(): void {
    // A failed write does not matter: a full counter means that the thread has not read it yet, and will wake.
    writeFd(this.#wake, new Uint8Array(new BigUint64Array([1n]).buffer));
  }

  async #end(): Promise<void> {
    this.#stop();
    process.removeListener('exit', this.#onExit);
    // Threads that wait go on in this tick.
    this.#user.unregister();
    for (const unpin of this.#unpins) unpin();
    const threadsEnded = Promise.all(
      this.#threads.map(({ worker, ended: over }) => {
        // This ends a thread that never got its order.
        worker.postMessage({ order: undefined });
        return over;
      }),
    );
    this.#fail(ended());
    await threadsEnded;
    this.#user.leave();
    closeFd(this.#wake);
    munmap(this.#buffer, this.#bufferBytes);
  }
}

function ended(): GodwitError {
  return new GodwitError('GODWIT_INVALID_STATE', 'the protection of the memory has been ended');
}
