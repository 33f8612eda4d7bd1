import koffi from 'koffi';
import { check, checkAsync, MAP_FAILED } from './call.js';
import { sizeArgument } from './integer-argument.js';
import { cFunction, lastErrno } from './library.js';
import { SyscallError } from './syscall-error.js';

/** asm-generic/mman-common.h and mman.h (the same on x86-64, arm64 and riscv64) */
export const Protection = { PROT_NONE: 0, PROT_READ: 1, PROT_WRITE: 2, PROT_EXEC: 4 } as const;
export const MapFlags = {
  MAP_SHARED: 0x01,
  MAP_PRIVATE: 0x02,
  MAP_FIXED: 0x10,
  MAP_ANONYMOUS: 0x20,
  MAP_NORESERVE: 0x4000,
  MAP_POPULATE: 0x8000,
} as const;
/** asm-generic/mman-common.h */
export const MemoryAdvice = {
  MADV_DONTNEED: 4,
  MADV_REMOVE: 9,
  MADV_DONTFORK: 10,
  MADV_HUGEPAGE: 14,
  MADV_NOHUGEPAGE: 15,
  MADV_DONTDUMP: 16,
  MADV_POPULATE_READ: 22,
  MADV_POPULATE_WRITE: 23,
} as const;

type Address = bigint | null;
const LENGTH = 'a length';
const cMmap = cFunction<[Address, number, number, number, number, number], bigint>('mmap', 'void *', [
  'void *',
  'size_t',
  'int',
  'int',
  'int',
  'int64',
]);
const cMunmap = cFunction<[bigint, number], number>('munmap', 'int', ['void *', 'size_t']);
const cMadvise = cFunction<[bigint, number, number], number>('madvise', 'int', ['void *', 'size_t', 'int']);
const cMincore = cFunction<[bigint, number, Uint8Array], number>('mincore', 'int', ['void *', 'size_t', 'void *']);
const cGetpagesize = cFunction<[], number>('getpagesize', 'int', []);

/** The host's page size in bytes. */
export const HOST_PAGE_SIZE: number = cGetpagesize();

export interface MapRequest {
  /** Bytes. */
  readonly byteLength: number;
  /** Default: read and write. */
  readonly protection?: number;
  readonly flags: number;
  /** Default: none, for an anonymous mapping. */
  readonly fd?: number;
  /** Bytes into the file; a multiple of the page size. */
  readonly offset?: number;
  readonly address?: bigint;
}

/**
 * `mmap(2)`: the address of the new mapping. Throws `SyscallError`; ENOMEM has the code GODWIT_OUT_OF_MEMORY.
 *
 * @example
 * const address = mmap({ byteLength: 4096, flags: MapFlags.MAP_SHARED, fd });
 */
export function mmap(request: MapRequest): bigint {
  const address = cMmap(
    request.address ?? null,
    sizeArgument(LENGTH, request.byteLength),
    request.protection ?? Protection.PROT_READ | Protection.PROT_WRITE,
    request.flags,
    request.fd ?? -1,
    sizeArgument('an offset', request.offset ?? 0),
  );
  if (address !== MAP_FAILED) return address;
  throw new SyscallError('mmap', lastErrno(), `of ${request.byteLength} bytes`);
}

/**
 * Removes a mapping. Any access to a JavaScript view of it crashes the process afterwards: no view may be touched any
 * more.
 */
export function munmap(address: bigint, byteLength: number): void {
  check('munmap', cMunmap(address, sizeArgument(LENGTH, byteLength)), `of ${byteLength} bytes`);
}

/**
 * madvise(2). Throws `SyscallError`.
 *
 * @example
 * madvise(address, 2 ** 21, MemoryAdvice.MADV_HUGEPAGE);
 */
export function madvise(address: bigint, byteLength: number, advice: number): void {
  check('madvise', cMadvise(address, sizeArgument(LENGTH, byteLength), advice), `${advice} on ${byteLength} bytes`);
}

/** `madvise` on a pool thread: populating a GiB takes hundreds of milliseconds. */
export async function madviseAsync(address: bigint, byteLength: number, advice: number): Promise<void> {
  await checkAsync(
    'madvise',
    `${advice} on ${byteLength} bytes`,
    cMadvise,
    address,
    sizeArgument(LENGTH, byteLength),
    advice,
  );
}

/**
 * `mincore(2)`: one byte per host page into `residency`, bit 0 set when the page is in memory. The bit is clear for a
 * hole, and also for a page that is swapped out.
 */
export function mincore(address: bigint, byteLength: number, residency: Uint8Array): void {
  check('mincore', cMincore(address, byteLength, residency), `on ${byteLength} bytes`);
}

/**
 * Node 20 ends the process (without an exception) when an external ArrayBuffer is larger than 4 GiB; views are much
 * smaller.
 */
const MAX_VIEW_BYTES = 2 ** 32;

/**
 * Memory at an address as bytes, without a copy and without an owner: the memory must stay mapped for as long as the
 * view is used. Make one view per mapping and use its `subarray`: V8 counts each view as external memory of its full
 * size.
 *
 * @example
 * const bytes = viewOf(mmap({ byteLength: 4096, flags: MapFlags.MAP_SHARED, fd }), 4096);
 */
export function viewOf(address: bigint, byteLength: number): Uint8Array {
  if (!Number.isSafeInteger(byteLength) || byteLength < 0 || byteLength > MAX_VIEW_BYTES) {
    throw new RangeError(`a view of memory is at most ${MAX_VIEW_BYTES} bytes, got ${byteLength}`);
  }
  return new Uint8Array(koffi.view(address, byteLength));
}

/**
 * The address of a buffer's first byte. Valid while the buffer is alive: keep a reference until the kernel has
 * finished.
 *
 * @example
 * const bytes = new Uint8Array(64);
 * tryIoctl(fd, request, addressOf(bytes));
 */
export function addressOf(buffer: Uint8Array | Uint32Array | BigUint64Array): bigint {
  return koffi.address(buffer);
}
