import { once } from 'node:events';
import { setImmediate } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { FaultMessages, type UserfaultEvent, Userfaultfd } from '@godwit/linux';
import { closeFd, ftruncate, MapFlags, memfdCreate, mmap, munmap, PollSet, viewOf } from '@godwit/linux/unstable';
import type { Touch } from './workers/toucher.js';

export type Kind = 'memfd' | 'anonymous' | 'huge pages';

/** Memory of a kind, its userfaultfd, and threads that touch it. Everything goes with `close`. */
export class MissingMemory {
  readonly uffd: Userfaultfd;
  readonly address: number;
  readonly byteLength: number;
  readonly pageSize: number;
  /** The memory file; -1 for anonymous memory. */
  readonly fd: number;
  /** A page to copy from, which is always there. */
  readonly #page: Uint8Array;
  readonly #pageAddress: bigint;
  readonly #toucher: Worker[] = [];
  readonly messages: FaultMessages;
  readonly #poll: PollSet;

  constructor(kind: Kind, pages: number, mode: number, features = 0) {
    this.pageSize = kind === 'huge pages' ? 2 ** 21 : 4096;
    this.byteLength = pages * this.pageSize;
    const { MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS } = MapFlags;
    if (kind === 'anonymous') {
      this.fd = -1;
      this.address = Number(mmap({ byteLength: this.byteLength, flags: MAP_PRIVATE | MAP_ANONYMOUS }));
    } else {
      this.fd = memfdCreate('missing', kind === 'huge pages' ? 4 | (21 << 26) : 0);
      ftruncate(this.fd, this.byteLength);
      this.address = Number(mmap({ byteLength: this.byteLength, flags: MAP_SHARED, fd: this.fd }));
    }
    this.#pageAddress = mmap({ byteLength: this.pageSize, flags: MAP_PRIVATE | MAP_ANONYMOUS });
    this.#page = viewOf(this.#pageAddress, this.pageSize).fill(0);
    this.uffd = Userfaultfd.open(features);
    if (mode !== 0) this.uffd.register(BigInt(this.address), this.byteLength, mode);
    this.messages = new FaultMessages(this.uffd.fd);
    this.#poll = new PollSet([this.uffd.fd]);
  }

  at(page: number): number {
    return this.address + page * this.pageSize;
  }

  /** The address of a page full of this byte. */
  pageOf(byte: number): number {
    this.#page.fill(byte);
    return Number(this.#pageAddress);
  }

  /** All of it. Only for pages that are there. */
  view(): Uint8Array {
    return viewOf(BigInt(this.address), this.byteLength);
  }

  /** A thread that does as it is told. */
  async toucher(): Promise<Toucher> {
    const { address, byteLength } = this;
    const workerData = { address: BigInt(address), byteLength };
    const worker = new Worker(new URL('./workers/toucher.js', import.meta.url), { workerData });
    this.#toucher.push(worker);
    const [thread] = (await once(worker, 'message')) as [number];
    return {
      thread,
      touch: async (touch) => {
        worker.postMessage(touch);
        const [answer] = (await once(worker, 'message')) as [number];
        return answer;
      },
    };
  }

  /** The next events: waits for the first. */
  async events(): Promise<UserfaultEvent[]> {
    for (;;) {
      const count = this.messages.read();
      if (count > 0) return Array.from({ length: count }, (_, i) => this.messages.event(i));
      this.#poll.wait(5);
      await setImmediate();
    }
  }

  async close(): Promise<void> {
    // Whoever still waits for a page goes on.
    this.uffd.close();
    for (const worker of this.#toucher) await worker.terminate();
    munmap(BigInt(this.address), this.byteLength);
    munmap(this.#pageAddress, this.pageSize);
    if (this.fd !== -1) closeFd(this.fd);
  }
}

export interface Toucher {
  readonly thread: number;
  /** Resolves when the thread has done it. */
  touch(touch: Touch): Promise<number>;
}
