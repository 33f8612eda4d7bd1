import { MAXIMUM_PAYLOAD, type MissingSink } from '@godwit/core/pages';
import { addressOf, Errno, HOST_PAGE_SIZE, yieldProcessor } from '@godwit/linux/unstable/libc';
import { Userfaultfd } from '@godwit/linux/userfaultfd';
import type { ServedMemoryParts } from './missing-messages.js';
import { MissingPages } from './missing-pages.js';

/** Tries after which a mapping that is always being changed is given up; each gives way to other threads. */
const MOST_TRIES = 10_000;

/**
 * Puts pages into guest memory while the guest runs: each appears whole and once. A page that is there already is dropped; who waits
 * for it is woken.
 */
export class PagePutter implements MissingSink {
  /** Where pages are put first: on this thread's own memory. */
  readonly bytes: Uint8Array;
  readonly missing: MissingPages;
  readonly pageSize: number;
  readonly blocks: ServedMemoryParts['blocks'];
  readonly #uffd: Userfaultfd;
  readonly #from: number;
  /** A page of the host's size without contents. */
  readonly #zeros = new Uint8Array(HOST_PAGE_SIZE);

  /** @param pages room for so many */
  constructor(parts: ServedMemoryParts, pages: number) {
    this.#uffd = Userfaultfd.attach(parts.uffd);
    this.missing = new MissingPages(parts.missing);
    this.pageSize = parts.pageSize;
    this.blocks = parts.blocks;
    this.bytes = new Uint8Array(new ArrayBuffer(pages * parts.pageSize));
    this.#from = Number(addressOf(this.bytes));
  }

  /** Puts `pageCount` pages there, from `offset` of `bytes` on. Returns whether these were the last that were missing anywhere. */
  put(block: number, page: number, pageCount: number, offset = 0): boolean {
    const { pageSize } = this;
    // With the last page the service ends, and pages that were under way are dropped.
    if (this.missing.left > 0) this.#place(this.addressOf(block, page), this.#from + offset, pageCount * pageSize);
    let last = false;
    for (let i = 0; i < pageCount; i++) {
      if (this.missing.arrived(block, page + i) && this.missing.left === 0) last = true;
    }
    return last;
  }

  /** Makes a page zero that is there or is to be zero, and wakes who waits for it. */
  zero(block: number, page: number): void {
    this.#place(this.addressOf(block, page), undefined, this.pageSize);
  }

  /**
   * Says that these pages are zero; they take no memory. Who waits for one already is woken, and faults again: the answer to its request may
   * have been lost with its link, and a page that is not missing is not asked for again.
   */
  putZero(block: number, page: number, pageCount: number): void {
    for (let i = 0; i < pageCount; i++) this.missing.arrived(block, page + i);
    // With the last page the service ends, which wakes everybody.
    if (this.missing.left > 0) this.#uffd.wake(this.addressOf(block, page), pageCount * this.pageSize);
  }

  addressOf(block: number, page: number): number {
    return (this.blocks[block] as { address: number }).address + page * this.pageSize;
  }

  /** The block of an address; -1 for none. */
  blockAt(address: number): number {
    return this.blocks.findIndex((block) => address >= block.address && address < block.address + block.byteLength);
  }

  /** Fills host memory: from `from` on, or with zeros. */
  #place(to: number, from: number | undefined, byteLength: number): void {
    const uffd = this.#uffd;
    let tries = 0;
    for (let done = 0; done < byteLength; ) {
      const left = byteLength - done;
      done += from === undefined ? uffd.zero(to + done, left) : uffd.copy(to + done, from + done, left);
      if (done >= byteLength) return;
      // In anonymous memory the kernel takes the mark of a hole that a tracker has protected for a page, but not when it copies one.
      const isMark = from === undefined && uffd.errno === Errno.EEXIST && this.#copyZeros(to + done);
      if (isMark) {
        done += HOST_PAGE_SIZE;
        continue;
      }
      if (uffd.errno === Errno.EEXIST) {
        // The page that is there stays. Whoever has put it there has woken who waits for it; once more costs nothing.
        uffd.wake(to + done, HOST_PAGE_SIZE);
        done += HOST_PAGE_SIZE;
        continue;
      }
      if (this.missing.left === 0) return;
      if (uffd.errno !== Errno.EAGAIN || ++tries > MOST_TRIES) throw uffd.failure();
      yieldProcessor();
    }
  }

  /** False when there is a page, or the mapping is being changed (EAGAIN): `#uffd.errno` says which. */
  #copyZeros(to: number): boolean {
    return this.#uffd.copy(to, Number(addressOf(this.#zeros)), HOST_PAGE_SIZE) === HOST_PAGE_SIZE;
  }
}

/** Puts pages as they come in frames, on any thread. */
export function missingSinkOf(parts: ServedMemoryParts): PagePutter {
  return new PagePutter(parts, Math.ceil(MAXIMUM_PAYLOAD / parts.pageSize));
}
