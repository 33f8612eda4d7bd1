import { MAXIMUM_PAYLOAD, type MissingSink } from '@godwit/core/pages';
import { addressOf, Errno, HOST_PAGE_SIZE } from '@godwit/linux/unstable/libc';
import { Userfaultfd } from '@godwit/linux/userfaultfd';
import { ControlWord, type ServedMemoryParts } from './missing-messages.js';
import { MissingPages } from './missing-pages.js';

/** The number of tries before the putter gives up on a mapping that is being changed all the time; the first ones follow at once. */
const MOST_TRIES = 1000;
const TRIES_AT_ONCE = 4;
/**
 * The sleep before a further try, in milliseconds. A thread that uses this class may have a real-time priority, and must let the one run
 * that changes the mapping.
 */
const RETRY_MS = 1;

/**
 * Puts pages into guest memory while the guest runs: each page appears whole and once. A page that is already there is dropped, and the
 * threads that wait for it are woken.
 */
export class PagePutter implements MissingSink {
  /** This thread's buffer for the bytes of pages. */
  readonly bytes: Uint8Array;
  readonly missing: MissingPages;
  readonly pageSize: number;
  readonly blocks: ServedMemoryParts['blocks'];
  readonly #uffd: Userfaultfd;
  readonly #control: Int32Array;
  readonly #from: number;
  /** An empty page of the host's page size. */
  readonly #zeros = new Uint8Array(HOST_PAGE_SIZE);

  /** @param pages the number of pages for which `bytes` has room */
  constructor(parts: ServedMemoryParts, pages: number) {
    this.#uffd = Userfaultfd.attach(parts.uffd);
    this.#control = new Int32Array(parts.control);
    this.missing = new MissingPages(parts.missing);
    this.pageSize = parts.pageSize;
    this.blocks = parts.blocks;
    this.bytes = new Uint8Array(new ArrayBuffer(pages * parts.pageSize));
    this.#from = Number(addressOf(this.bytes));
  }

  /**
   * Puts `pageCount` pages into guest memory; their bytes begin at `offset` of `bytes`. Returns whether these were the last missing pages
   * of all blocks.
   */
  put(block: number, page: number, pageCount: number, offset = 0): boolean {
    const { pageSize } = this;
    const to = this.addressOf(block, page);
    // The service ends with the last page, and pages in flight are dropped. A page that was not put stays missing.
    if (this.missing.left > 0 && !this.#place(to, this.#from + offset, pageCount * pageSize)) return false;
    let last = false;
    for (let i = 0; i < pageCount; i++) {
      if (this.missing.arrived(block, page + i) && this.missing.left === 0) last = true;
    }
    return last;
  }

  /** Makes a page zero unless it is there, and wakes the threads that wait for it. */
  zero(block: number, page: number): void {
    this.#place(this.addressOf(block, page), undefined, this.pageSize);
  }

  /**
   * Notes that these pages are zero; they take no memory. Threads that already wait for one are woken, and fault again: the answer to its
   * request may have been lost with its link, and a page that is not missing is not asked for again.
   */
  putZero(block: number, page: number, pageCount: number): void {
    const stopped = this.#stopped;
    if (stopped && this.missing.left > 0) return;
    for (let i = 0; i < pageCount; i++) this.missing.arrived(block, page + i);
    // The end of the service wakes all threads.
    if (!stopped) this.#uffd.wake(this.addressOf(block, page), pageCount * this.pageSize);
  }

  addressOf(block: number, page: number): number {
    return (this.blocks[block] as { address: number }).address + page * this.pageSize;
  }

  /** The index of the block at an address; -1 for none. */
  blockAt(address: number): number {
    return this.blocks.findIndex((block) => address >= block.address && address < block.address + block.byteLength);
  }

  /** Whether the service ends: its userfaultfd may be closed, and its number be another file's. */
  get #stopped(): boolean {
    return Atomics.load(this.#control, ControlWord.stop) !== 0;
  }

  /** Fills guest memory with the bytes at the address `from`, or with zeros. Returns false when the service ends before all was filled. */
  #place(to: number, from: number | undefined, byteLength: number): boolean {
    const uffd = this.#uffd;
    let tries = 0;
    for (let done = 0; done < byteLength; ) {
      if (this.#stopped) return false;
      const left = byteLength - done;
      done += from === undefined ? uffd.zero(to + done, left) : uffd.copy(to + done, from + done, left);
      if (done >= byteLength) return true;
      // In anonymous memory, the kernel mistakes the mark of a protected hole for a page, except when it copies a page there.
      const isMark = from === undefined && uffd.errno === Errno.EEXIST && this.#copyZeros(to + done);
      if (isMark) {
        done += HOST_PAGE_SIZE;
        continue;
      }
      if (uffd.errno === Errno.EEXIST) {
        // A page that is already there stays. The thread that put it has woken those that wait; waking again does no harm.
        uffd.wake(to + done, HOST_PAGE_SIZE);
        done += HOST_PAGE_SIZE;
        continue;
      }
      if (this.#stopped) return false;
      if (uffd.errno !== Errno.EAGAIN || ++tries > MOST_TRIES) throw uffd.failure();
      if (tries > TRIES_AT_ONCE) Atomics.wait(this.#control, ControlWord.stop, 0, RETRY_MS);
    }
    return true;
  }

  /** False when there is a page, or the mapping is being changed (EAGAIN): `#uffd.errno` says which. */
  #copyZeros(to: number): boolean {
    return this.#uffd.copy(to, Number(addressOf(this.#zeros)), HOST_PAGE_SIZE) === HOST_PAGE_SIZE;
  }
}

/** Makes the sink for pages that come in frames, on any thread. */
export function missingSinkOf(parts: ServedMemoryParts): PagePutter {
  return new PagePutter(parts, Math.ceil(MAXIMUM_PAYLOAD / parts.pageSize));
}
