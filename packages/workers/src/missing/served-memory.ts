import { MessageChannel, type MessagePort } from 'node:worker_threads';
import {
  DirtyBitmap,
  DirtyBitmaps,
  type FaultStatus,
  GodwitError,
  type MissingMemory,
  type MissingSink,
  type PageStream,
  type PagesToServe,
  type ThreadRecipe,
} from '@godwit/core';
import type { MappedGuestMemory, SharedUserfaultfd } from '@godwit/linux';
import { closeFd, eventfd, writeFd } from '@godwit/linux/unstable';
import { WorkerStream } from '../worker-stream.js';
import { FaultStatistics } from './fault-statistics.js';
import { giveUpContents } from './give-up-contents.js';
import { markMissing } from './mark-missing.js';
import {
  type AskOver,
  ControlWord,
  type FaultOrder,
  type PresentOrder,
  type ServedMemoryParts,
  type ServeOrder,
  type ServiceReport,
} from './missing-messages.js';
import { MissingPages } from './missing-pages.js';
import { nowUs } from './now-us.js';
import { missingSinkOf } from './page-putter.js';
import { Relay } from './relay.js';
import type { ServiceThread } from './service-thread-pool.js';
import { settlesWithin } from './settles-within.js';

/** How long `end` waits for the threads, one of which may be in a read from a disk. Milliseconds. */
const END_MS = 2_000;
/** The shortest time over which a rate is measured. Milliseconds. */
const RATE_MS = 100;
/** The most lost pages that an error names. */
const MOST_NAMED = 8;
const PUTTER = new URL('./page-putter.js', import.meta.url).href;

interface PresentWait {
  readonly order: PresentOrder;
  readonly sinceUs: number;
  readonly resolve: () => void;
  readonly reject: (error: GodwitError) => void;
}

/** A copy of a bitmap that other threads read. */
function sharedBits(bitmap: DirtyBitmap): SharedArrayBuffer {
  const shared = new SharedArrayBuffer(DirtyBitmap.storageBytes(bitmap.pageCount));
  bitmap.copyWords(0, new Uint32Array(shared));
  return shared;
}

/** Memory whose pages come while the guest runs, and the two threads that bring them. */
export class ServedMemory implements MissingMemory {
  readonly whole: Promise<void>;
  readonly #memory: MappedGuestMemory;
  readonly #user: SharedUserfaultfd;
  readonly #threads: readonly [faults: ServiceThread, loading: ServiceThread];
  readonly #missing: MissingPages;
  readonly #statistics = new FaultStatistics();
  readonly #control = new Int32Array(new SharedArrayBuffer(ControlWord.count * 4));
  readonly #wake = eventfd(0);
  readonly #orders: MessagePort;
  #total = 0;
  #began = performance.now();
  #onLost: PagesToServe['onLost'];
  /** The guest's working set, which is loaded first. */
  #first: ServedMemoryParts['first'];
  /** False while this is only prepared: no page is missing, and no range is registered. */
  #begun = false;
  readonly #lost = new Map<string, GodwitError>();
  readonly #waits = new Map<number, PresentWait>();
  readonly #serving: Promise<void>;
  readonly #parts: ServedMemoryParts;
  readonly sinkRecipe: ThreadRecipe;
  #relay: Relay | undefined;
  #onLinkLost: (reason: GodwitError) => void = () => {};
  #generation = 0;
  #nextWait = 1;
  #loaded = false;
  #loadRest: () => void;
  #settled = false;
  #ending: Promise<void> | undefined;
  #resolve: () => void = () => {};
  #reject: (error: GodwitError) => void = () => {};
  #rate = { at: performance.now(), faults: 0, perSecond: 0 };
  /** Ends the threads at `process.exit`, which waits for them. */
  readonly #onExit = (): void => this.#stop();

  /**
   * Starts the threads, with nothing to do until `begin`. `user`: the ranges of the memory, reserved. `threads`: the thread for faults and
   * the thread that loads the rest. The process may end meanwhile.
   */
  constructor(
    memory: MappedGuestMemory,
    source: PagesToServe['source'],
    user: SharedUserfaultfd,
    threads: readonly [faults: ServiceThread, loading: ServiceThread],
  ) {
    this.#memory = memory;
    this.#user = user;
    this.#threads = threads;
    this.#missing = MissingPages.none(memory.blocks.map(({ byteLength }) => byteLength / memory.pageSize));
    Atomics.store(this.#control, ControlWord.hintBlock, -1);
    Atomics.store(this.#control, ControlWord.hintPage, -1);
    this.whole = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.whole.catch(() => {});
    const { pageSize, blocks } = memory;
    const parts: ServedMemoryParts = {
      uffd: user.uffd.fd,
      pageSize,
      blocks: blocks.map(({ hostAddress, byteLength }) => ({ address: Number(hostAddress), byteLength })),
      missing: this.#missing.buffers,
      statistics: this.#statistics.storage,
      control: this.#control.buffer as SharedArrayBuffer,
      wake: this.#wake,
      source,
    };
    this.#parts = parts;
    this.sinkRecipe = { module: PUTTER, make: 'missingSinkOf', options: parts };
    process.once('exit', this.#onExit);
    const [faults, loading] = threads;
    const { port1, port2 } = new MessageChannel();
    port1.unref();
    this.#orders = port1;
    this.#serving = this.#give(faults, { role: 'faults', parts }, port2);
    // Without a `PageSource` the pages come from a sender, and nothing has to be loaded.
    this.#loaded = source === undefined;
    this.#loadRest = () => {
      if (source !== undefined)
        void this.#give(loading, { role: 'loading', parts: { ...parts, first: this.#first } }).catch(() => {});
    };
    faults.worker.unref();
  }

  /**
   * Begins to serve the memory: from now on the pages of `contents` are missing, and the others as `others` says. Throws when the ranges
   * cannot be registered or contents not be given up; then only `undo` is left to call.
   */
  begin({ contents, first, others, onLost }: PagesToServe): void {
    this.#threads[0].worker.ref();
    this.#onLost = onLost;
    this.#first = first?.blocks.map(sharedBits);
    this.#began = performance.now();
    this.#begun = true;
    // The bits come first: the fault thread makes a page zero that is not missing.
    this.#missing.begin(contents);
    this.#total = this.#missing.left;
    this.#memory.missing = this;
    this.#user.register();
    // The contents are given up after the registration, so that no page can be populated again meanwhile.
    giveUpContents(this.#memory, others === 'stay' ? contents : undefined);
  }

  /** Whether this serves the memory or could begin to. */
  get usable(): boolean {
    return !this.#settled && this.#ending === undefined;
  }

  get memory(): MappedGuestMemory {
    return this.#memory;
  }

  loadRest(): void {
    const load = this.#loadRest;
    this.#loadRest = () => {};
    if (this.#ending === undefined) load();
  }

  /** Resolves when page faults are served; rejects when the thread cannot. */
  serving(): Promise<void> {
    return this.#serving;
  }

  askOver(urgent: PageStream, onLost: (reason: GodwitError) => void): void {
    if (this.#ending !== undefined) return;
    this.#onLinkLost = onLost;
    this.#generation++;
    const link = urgent instanceof WorkerStream ? urgent.share() : undefined;
    this.#relay = link === undefined ? new Relay(urgent, this.#parts, this.#relayed(this.#generation)) : undefined;
    this.#send({ generation: this.#generation, link } satisfies AskOver);
  }

  sink(): MissingSink {
    return missingSinkOf(this.#parts);
  }

  arrived(): void {
    // The threads that waited for one of the pages are awake; this ends their waits in the counts too.
    this.#wakeUp();
    this.#settleIfOver();
  }

  missing(): DirtyBitmaps {
    const pages = new DirtyBitmaps(this.#memory);
    for (const [index, bitmap] of pages.blocks.entries()) {
      bitmap.orWords(Uint32Array.from(this.#missing.wordsOf(index)), 0);
    }
    return pages;
  }

  status(): FaultStatus {
    const atUs = nowUs();
    const counts = this.#statistics.read(atUs);
    const [wait] = this.#waits.values();
    const pagesMissing = this.#missing.left;
    const now = performance.now();
    const { at, faults } = this.#rate;
    if (now - at >= RATE_MS) {
      this.#rate = { at: now, faults: counts.faults, perSecond: ((counts.faults - faults) / (now - at)) * 1000 };
    }
    const come = this.#total - pagesMissing;
    const remainingMs = come === 0 ? undefined : ((now - this.#began) / come) * pagesMissing;
    return {
      ...counts,
      waitingUs: Math.max(counts.waitingUs, wait === undefined ? 0 : atUs - wait.sinceUs),
      pagesMissing,
      pagesTotal: this.#total,
      duplicatePages: this.#missing.duplicates,
      faultsPerSecond: this.#rate.perSecond,
      pagesLost: this.#lost.size,
      remainingMs: pagesMissing === 0 ? 0 : this.#lost.size > 0 ? undefined : remainingMs,
    };
  }

  async present(block: number, offset: number, byteLength: number): Promise<void> {
    const { blocks, pageSize } = this.#memory;
    const { id, byteLength: blockBytes } = blocks[block] ?? { id: `${block}`, byteLength: 0 };
    if (!(offset >= 0 && byteLength >= 0 && offset + byteLength <= blockBytes)) {
      throw new GodwitError(
        'GODWIT_OUT_OF_RANGE',
        `bytes ${offset}..${offset + byteLength} are outside RAM block "${id}" of ${blockBytes} bytes`,
      );
    }
    const page = Math.floor(offset / pageSize);
    const pageCount = Math.ceil((offset + byteLength) / pageSize) - page;
    if (this.#missing.firstMissing(block, page, pageCount) === -1) return;
    const order: PresentOrder = { id: this.#nextWait++, block, page, pageCount };
    const lost = this.#lostIn(order);
    if (lost !== undefined) throw lost;
    if (this.#settled) throw this.#gone('the service has ended');
    await new Promise<void>((resolve, reject) => {
      this.#waits.set(order.id, { order, sinceUs: nowUs(), resolve, reject });
      this.#send(order);
    });
  }

  end(): Promise<void> {
    this.#ending ??= this.#end(this.#missing.left === 0 ? 'whole' : 'poison');
    return this.#ending;
  }

  undo(): Promise<void> {
    this.#ending ??= this.#end('undo');
    return this.#ending;
  }

  #send(order: FaultOrder): void {
    this.#orders.postMessage(order);
    Atomics.add(this.#control, ControlWord.orders, 1);
    this.#wakeUp();
  }

  /** The callbacks of a `Relay` for an answer and for the end of its stream; they do nothing once another generation has begun. */
  #relayed(generation: number) {
    return {
      onPages: () => this.arrived(),
      onLost: (reason: GodwitError) => {
        if (generation === this.#generation) this.#onLinkLost(reason);
      },
    };
  }

  /** Sends a thread its order; resolves when the thread is at work. */
  #give({ worker, ended }: ServiceThread, order: ServeOrder, orders?: MessagePort): Promise<void> {
    worker.ref();
    return new Promise((resolve, reject) => {
      let done = false;
      const failed = (error: GodwitError): void => {
        reject(error);
        this.#fail(error);
      };
      worker.on('message', (report: ServiceReport) => {
        if (report.type === 'serving') resolve();
        if (report.type === 'loaded') done = true;
        if (report.type === 'failed') failed(new GodwitError(report.code, report.message));
        else this.#handle(report);
      });
      worker.once('error', (error: unknown) => failed(this.#gone(String(error))));
      void ended.then(() => {
        if (done || Atomics.load(this.#control, ControlWord.stop) !== 0) return;
        failed(this.#gone(`the thread of the ${order.role} has ended`));
      });
      worker.postMessage({ order, orders }, orders === undefined ? [] : [orders]);
    });
  }

  #handle(report: ServiceReport): void {
    switch (report.type) {
      case 'present': {
        const wait = this.#waits.get(report.id);
        this.#waits.delete(report.id);
        wait?.resolve();
        return;
      }
      case 'lost':
        this.#lose(report.block, report.page, new GodwitError(report.code, report.message));
        break;
      case 'loaded':
        this.#loaded = true;
        break;
      case 'asked':
        this.#relay?.request(report.block, report.page);
        return;
      case 'link lost':
        if (report.generation === this.#generation) this.#onLinkLost(new GodwitError(report.code, report.message));
        return;
      default:
    }
    this.#settleIfOver();
  }

  #lose(block: number, page: number, reason: GodwitError): void {
    const key = `${block}/${page}`;
    if (this.#lost.has(key)) return;
    this.#lost.set(key, reason);
    this.#onLost?.(block, page, reason);
    for (const [id, { order, reject }] of this.#waits) {
      const lost = this.#lostIn(order);
      if (lost === undefined) continue;
      this.#waits.delete(id);
      reject(lost);
    }
  }

  #lostIn({ block, page, pageCount }: PresentOrder): GodwitError | undefined {
    for (const [key, reason] of this.#lost) {
      const [lostBlock, lostPage] = key.split('/').map(Number) as [number, number];
      if (lostBlock !== block || lostPage < page || lostPage >= page + pageCount) continue;
      if (this.#missing.isMissing(block, lostPage)) return this.#gone(reason.message, reason);
    }
    return undefined;
  }

  #settleIfOver(): void {
    const { left } = this.#missing;
    if (!this.#begun || !this.#loaded || this.#settled) return;
    if (left === 0) {
      this.#settled = true;
      this.end().then(this.#resolve, (error: unknown) =>
        this.#reject(GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the service of missing pages could not be ended')),
      );
      return;
    }
    const lost = [...this.#lost.keys()].filter((key) => {
      const [block, page] = key.split('/').map(Number) as [number, number];
      return this.#missing.isMissing(block, page);
    });
    if (left > lost.length) return;
    this.#fail(this.#gone([...this.#lost.values()][0]?.message ?? '', [...this.#lost.values()][0], lost));
  }

  /**
   * Handles the failure of a thread, after which no more pages come. The ranges stay registered, so that threads that wait for a
   * page go on waiting.
   */
  #fail(error: GodwitError): void {
    if (this.#settled) return;
    this.#settled = true;
    for (const { reject } of this.#waits.values()) reject(error);
    this.#waits.clear();
    this.#reject(error);
  }

  /** Ends the waits for pages, all of which are there: the thread that serves the orders may stop before it reports them. */
  #resolveWaits(): void {
    for (const { resolve } of this.#waits.values()) resolve();
    this.#waits.clear();
  }

  #gone(why: string, cause?: unknown, lost: readonly string[] = [...this.#lost.keys()]): GodwitError {
    const { blocks } = this.#memory;
    const named = lost.slice(0, MOST_NAMED).map((key) => {
      const [block, page] = key.split('/').map(Number) as [number, number];
      return `page ${page} of "${blocks[block]?.id}"`;
    });
    const more = lost.length > named.length ? ` and ${lost.length - named.length} more` : '';
    const which = named.length === 0 ? '' : ` (${named.join(', ')}${more})`;
    return new GodwitError(
      'GODWIT_PAGES_MISSING',
      `${this.#missing.left} of ${this.#total} pages of the guest are missing and cannot be had${which}: ${why}; the guest stands ` +
        'where it needs one of them, and reads no zeros',
      cause === undefined ? {} : { cause },
    );
  }

  #stop(): void {
    Atomics.store(this.#control, ControlWord.stop, 1);
    this.#wakeUp();
  }

  #wakeUp(): void {
    // A failed write does not matter: a full counter means that the thread has not read it yet, and will wake.
    writeFd(this.#wake, new Uint8Array(new BigUint64Array([1n]).buffer));
  }

  async #end(how: 'whole' | 'poison' | 'undo'): Promise<void> {
    this.#stop();
    process.removeListener('exit', this.#onExit);
    const threadsEnded = Promise.all(
      this.#threads.map(({ worker, ended }) => {
        // This ends a thread that never got its order.
        worker.postMessage({ order: undefined });
        return ended;
      }),
    );
    if (how === 'whole') this.#resolveWaits();
    const ended = await settlesWithin(threadsEnded, END_MS);
    this.#fail(this.#gone('the service was ended'));
    if (this.#begun) this.#memory.missing = how === 'poison' ? this : undefined;
    const marked = how !== 'poison' || this.#markMissing();
    this.#orders.close();
    // After this a hole is no missing page any more; a page that never came was marked. Where one could not be marked, the registration stays
    // until the memory is unmapped: a thread that touches the page waits, and reads no zeros.
    if (marked) this.#user.unregister();
    const close = (): void => {
      if (marked) this.#user.leave();
      closeFd(this.#wake);
    };
    // A thread that hangs in a read still uses both descriptors, whose numbers must not be given to other files.
    if (ended) close();
    else void threadsEnded.then(close);
  }

  /** Marks all pages that are still missing; returns false when not all of them could be marked. */
  #markMissing(): boolean {
    const { uffd } = this.#user;
    const { pageSize, blocks } = this.#memory;
    let all = true;
    for (const [index, { hostAddress }] of blocks.entries()) {
      for (const { page, pageCount } of this.#missing.runs(index)) {
        if (!markMissing(uffd, Number(hostAddress) + page * pageSize, pageCount * pageSize)) all = false;
      }
    }
    return all;
  }
}
