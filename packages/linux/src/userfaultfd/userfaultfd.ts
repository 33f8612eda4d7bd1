import { GodwitError } from '@godwit/core/errors';
import { StructBuffer } from '../layouts/struct-buffer.js';
import {
  UFFDIO_CONTINUE,
  UFFDIO_COPY,
  UFFDIO_POISON,
  UFFDIO_RANGE,
  UFFDIO_REGISTER,
  UFFDIO_RWPROTECT,
  UFFDIO_WRITEPROTECT,
  UFFDIO_ZEROPAGE,
  Uffd,
  UffdRequest,
} from '../layouts/userfaultfd.js';
import { closeFd, Errno, SyscallError, tryIoctl } from '../libc/index.js';
import { availableFeatures, openUserfaultfd } from './open-userfaultfd.js';
import { PageOperation } from './page-operation.js';

/** How pages are put in. */
export interface PutOptions {
  /** Do not wake the threads that wait for these pages; `wake` does so later. Default false. */
  readonly keepAsleep?: boolean;
  /** `copy` and `proceed`: map the pages write-protected, so that the first write is noticed. Default false. */
  readonly writeProtected?: boolean;
}

/**
 * One userfaultfd: the kernel reports, or notes, page faults in ranges of this process's memory, and pages are put there as a whole. A
 * range belongs to at most one userfaultfd at a time.
 *
 * The operations on pages (`copy` to `wake`) are for a thread that serves faults: they allocate nothing and throw nothing. They return the
 * bytes that were done, from the start on, and `errno` says why the rest was not; `failure` makes an error of it. Addresses and lengths are
 * in bytes, multiples of the page size of the memory. What `errno` may be:
 *
 * - `EEXIST`: the page after those that were done is there already, and was left as it is
 * - `ENOENT`: nothing is mapped there, or it is not registered with this userfaultfd
 * - `EAGAIN`: the mapping is being changed (fork, mremap, munmap): read the events, and ask again
 * - `ENOMEM`, `ENOSPC`: the host has no memory, or no huge page, for it
 * - `EFAULT`: the bytes to be copied cannot be read, or there is no page to proceed with (`proceed`)
 * - `EINVAL`: not aligned, or not possible with this kind of memory
 *
 * @example
 * const uffd = Userfaultfd.open(Uffd.UFFD_FEATURE_MISSING_SHMEM, Uffd.UFFD_FEATURE_THREAD_ID);
 * uffd.register(block.hostAddress, block.byteLength, Uffd.UFFDIO_REGISTER_MODE_MISSING);
 * // on another thread, for each fault that `FaultMessages` reads:
 * const there = Userfaultfd.attach(uffd.fd);
 * if (there.copy(page, bytes, 4096) < 4096 && there.errno !== Errno.EEXIST) throw there.failure();
 */
export class Userfaultfd {
  readonly fd: number;
  /**
   * True when the process may not handle faults that the kernel takes on its behalf (KVM's included). This does not matter for asynchronous
   * write protection, which handles no fault, but makes post-copy impossible.
   */
  readonly userModeOnly: boolean;
  /** Bits of `UFFD_FEATURE_...` that are on; 0 for an attached one. */
  readonly features: number;
  readonly #owned: boolean;
  #closed = false;
  readonly #copy = new PageOperation('UFFDIO_COPY', UffdRequest.UFFDIO_COPY, UFFDIO_COPY);
  readonly #zero = new PageOperation('UFFDIO_ZEROPAGE', UffdRequest.UFFDIO_ZEROPAGE, UFFDIO_ZEROPAGE);
  readonly #continue = new PageOperation('UFFDIO_CONTINUE', UffdRequest.UFFDIO_CONTINUE, UFFDIO_CONTINUE);
  readonly #poison = new PageOperation('UFFDIO_POISON', UffdRequest.UFFDIO_POISON, UFFDIO_POISON);
  readonly #protect = new PageOperation('UFFDIO_WRITEPROTECT', UffdRequest.UFFDIO_WRITEPROTECT, UFFDIO_WRITEPROTECT);
  readonly #protectAccess = new PageOperation('UFFDIO_RWPROTECT', UffdRequest.UFFDIO_RWPROTECT, UFFDIO_RWPROTECT);
  readonly #wake = new PageOperation('UFFDIO_WAKE', UffdRequest.UFFDIO_WAKE, UFFDIO_RANGE);
  #last = this.#copy;
  #asked = { start: 0, byteLength: 0, done: 0 };

  private constructor(fd: number, userModeOnly: boolean, features: number, owned: boolean) {
    this.fd = fd;
    this.userModeOnly = userModeOnly;
    this.features = features;
    this.#owned = owned;
  }

  /**
   * Opens one through /dev/userfaultfd, else by the system call, else (unprivileged) for user mode only, and asks for `features` (bits of
   * `UFFD_FEATURE_...`); those of `wanted` are turned on where the kernel has them: `features` of the result says which.
   *
   * @throws SyscallError GODWIT_UNSUPPORTED when the kernel lacks userfaultfd or one of the features,
   * GODWIT_PERMISSION when it is forbidden (a seccomp filter)
   */
  static open(features: number, wanted = 0): Userfaultfd {
    const opened = openUserfaultfd(features, wanted);
    return new Userfaultfd(opened.fd, opened.userModeOnly, opened.features, true);
  }

  /** The same userfaultfd on another thread of this process. `close` leaves the descriptor to its owner. */
  static attach(fd: number): Userfaultfd {
    return new Userfaultfd(fd, false, 0, false);
  }

  /** Bits of `UFFD_FEATURE_...` that the kernel has. Throws like `open`. */
  static available(): number {
    return availableFeatures();
  }

  /**
   * Adds a range, or changes the modes of a registered one.
   *
   * @param mode bits of `UFFDIO_REGISTER_MODE_...`
   * @returns the operations that are possible on its pages: bits `1 << UffdRangeOperation...`
   * @throws SyscallError EBUSY when another userfaultfd has the range, EINVAL where nothing is mapped or where the memory is of a kind that
   * the mode does not work with
   */
  register(address: bigint, byteLength: number, mode: number): number {
    this.#requireOpen();
    const argument = new StructBuffer(UFFDIO_REGISTER)
      .set('range.start', address)
      .set('range.len', byteLength)
      .set('mode', mode);
    const result = tryIoctl(this.fd, UffdRequest.UFFDIO_REGISTER, argument.bytes);
    if (result < 0)
      throw new SyscallError('UFFDIO_REGISTER', -result, rangeText(address, byteLength), adviceFor(-result));
    // _UFFDIO_API, bit 63, is never set for a range, so that the value is below 2^53.
    return argument.get('ioctls');
  }

  /**
   * Unregisters a range, which also loses its write protection. Threads that wait for a page of it go on, and **read zeros** where the page
   * is missing: make sure that none is missing.
   */
  unregister(address: bigint, byteLength: number): void {
    this.#requireOpen();
    const argument = new StructBuffer(UFFDIO_RANGE).set('start', address).set('len', byteLength);
    const result = tryIoctl(this.fd, UffdRequest.UFFDIO_UNREGISTER, argument.bytes);
    if (result < 0) throw new SyscallError('UFFDIO_UNREGISTER', -result, rangeText(address, byteLength));
  }

  /** The errno with which the last operation on pages stopped; 0 when it did all. */
  get errno(): number {
    return this.#last.errno;
  }

  /**
   * Puts copies of `byteLength` bytes at `from` (any address of this process, no page of it missing) where pages are missing. Each page
   * appears as a whole once it is complete, and threads that wait for it go on.
   */
  copy(to: number, from: number, byteLength: number, options?: PutOptions): number {
    const mode =
      (options?.keepAsleep === true ? Uffd.UFFDIO_COPY_MODE_DONTWAKE : 0) |
      (options?.writeProtected === true ? Uffd.UFFDIO_COPY_MODE_WP : 0);
    return this.#run(this.#copy, to, byteLength, mode, from);
  }

  /** Makes missing pages zero. Not for huge pages (EINVAL): `copy` zeros there. */
  zero(address: number, byteLength: number, options?: Pick<PutOptions, 'keepAsleep'>): number {
    const mode = options?.keepAsleep === true ? Uffd.UFFDIO_ZEROPAGE_MODE_DONTWAKE : 0;
    return this.#run(this.#zero, address, byteLength, mode);
  }

  /**
   * Maps pages that are in the memory file but not in this mapping (mode MINOR): their bytes were put there through another mapping, or
   * with `pwrite`. (UFFDIO_CONTINUE, which is a reserved word.)
   */
  proceed(address: number, byteLength: number, options?: PutOptions): number {
    const mode =
      (options?.keepAsleep === true ? Uffd.UFFDIO_CONTINUE_MODE_DONTWAKE : 0) |
      (options?.writeProtected === true ? Uffd.UFFDIO_CONTINUE_MODE_WP : 0);
    return this.#run(this.#continue, address, byteLength, mode);
  }

  /**
   * Marks missing pages as pages that will never come: a thread that touches one gets SIGBUS, a vCPU an error of KVM_RUN, and no access
   * reads zeros. Linux 6.6.
   */
  poison(address: number, byteLength: number, options?: Pick<PutOptions, 'keepAsleep'>): number {
    const mode = options?.keepAsleep === true ? Uffd.UFFDIO_POISON_MODE_DONTWAKE : 0;
    return this.#run(this.#poison, address, byteLength, mode);
  }

  /**
   * Write-protects pages, or allows writing again; all or nothing. A write to a protected page is a fault that this userfaultfd reports
   * (synchronous: the writer waits until it is allowed), or with `UFFD_FEATURE_WP_ASYNC` one that the kernel notes in the page table by
   * itself (PAGEMAP_SCAN).
   */
  writeProtect(
    address: number,
    byteLength: number,
    protect: boolean,
    options?: Pick<PutOptions, 'keepAsleep'>,
  ): number {
    const mode =
      (protect ? Uffd.UFFDIO_WRITEPROTECT_MODE_WP : 0) |
      (options?.keepAsleep === true ? Uffd.UFFDIO_WRITEPROTECT_MODE_DONTWAKE : 0);
    return this.#run(this.#protect, address, byteLength, mode);
  }

  /**
   * Protects the pages that are there against reading and writing; all or nothing. With `UFFD_FEATURE_RWP_ASYNC` the kernel notes the first
   * access in the page table by itself (PAGEMAP_SCAN, `PAGE_IS_ACCESSED`). A page that is not there stays unprotected. For ranges that are
   * registered with `UFFDIO_REGISTER_MODE_RWP`; Linux 7.3.
   */
  accessProtect(address: number, byteLength: number): number {
    return this.#run(this.#protectAccess, address, byteLength, Uffd.UFFDIO_RWPROTECT_MODE_RWP);
  }

  /** Wakes the threads that wait for these pages: they try again, and wait again where a page is still missing. */
  wake(address: number, byteLength: number): number {
    return this.#run(this.#wake, address, byteLength);
  }

  /** The error of the last operation on pages, which did not do all: its request, how much was done, and why it stopped. */
  failure(): SyscallError {
    const { start, byteLength, done } = this.#asked;
    const asked = `${rangeText(start, byteLength)}, stopped after ${done} bytes,`;
    return new SyscallError(this.#last.name, this.errno, asked, adviceFor(this.errno));
  }

  /** Closes the userfaultfd, which unregisters all ranges; see `unregister` for missing pages. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#owned) closeFd(this.fd);
  }

  #run(operation: PageOperation, start: number, byteLength: number, mode = 0, source = 0): number {
    this.#requireOpen();
    this.#last = operation;
    const done = operation.run(this.fd, start, byteLength, mode, source);
    const asked = this.#asked;
    asked.start = start;
    asked.byteLength = byteLength;
    asked.done = done;
    return done;
  }

  #requireOpen(): void {
    if (this.#closed) throw new GodwitError('GODWIT_INVALID_STATE', 'the userfaultfd is closed');
  }
}

function rangeText(address: bigint | number, byteLength: number): string {
  return `of ${byteLength} bytes at 0x${address.toString(16)}`;
}

function adviceFor(errno: number): { advice?: string } {
  const advice = ADVICE[errno];
  return advice === undefined ? {} : { advice };
}

const ADVICE: Readonly<Record<number, string>> = {
  [Errno.EBUSY]: 'another userfaultfd has this range: a tracker, or page faults that another thread or library serves',
  [Errno.EEXIST]: 'the next page is there already',
  [Errno.ENOENT]: 'it is not mapped, or not registered with this userfaultfd',
  [Errno.EAGAIN]: 'the mapping is being changed: read the events of this userfaultfd, and ask again',
};
