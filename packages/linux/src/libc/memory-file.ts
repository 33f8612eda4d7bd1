import { check, resultOrNegativeErrno } from './call.js';
import { Errno } from './errno.js';
import { intArgument, sizeArgument } from './integer-argument.js';
import { uninterrupted } from './interrupted.js';
import { cFunction } from './library.js';
import { SyscallError } from './syscall-error.js';

const cMemfdCreate = cFunction<[string, number], number>('memfd_create', 'int', ['const char *', 'unsigned int']);
const cFtruncate = cFunction<[number, number], number>('ftruncate', 'int', ['int', 'int64']);
const cFallocate = cFunction<[number, number, number, number], number>('fallocate', 'int', [
  'int',
  'int',
  'int64',
  'int64',
]);
const cLseek = cFunction<[number, number, number], number>('lseek', 'int64', ['int', 'int64', 'int']);

/** linux/memfd.h */
export const MemfdFlags = {
  MFD_CLOEXEC: 0x1,
  MFD_ALLOW_SEALING: 0x2,
  MFD_HUGETLB: 0x4,
  /** log2 of the page size << MFD_HUGE_SHIFT (26): asm-generic/hugetlb_encode.h */
  MFD_HUGE_2MB: 21 << 26,
  MFD_HUGE_1GB: 30 << 26,
} as const;
/** linux/falloc.h */
export const FallocateMode = { FALLOC_FL_KEEP_SIZE: 0x1, FALLOC_FL_PUNCH_HOLE: 0x2 } as const;
/** linux/fs.h */
export const SeekWhence = { SEEK_DATA: 3, SEEK_HOLE: 4 } as const;

/**
 * A file that lives in memory only; close-on-exec. `name` shows up in /proc/self/maps.
 *
 * @example
 * const fd = memfdCreate('guest-ram', MemfdFlags.MFD_CLOEXEC);
 */
export function memfdCreate(name: string, flags = 0): number {
  return check('memfd_create', cMemfdCreate(name, flags | MemfdFlags.MFD_CLOEXEC), name);
}

/**
 * Sets a file's length; new bytes are a hole.
 *
 * @example
 * const fd = memfdCreate('guest-ram');
 * ftruncate(fd, 2 ** 30);
 */
export function ftruncate(fd: number, byteLength: number): void {
  const [file, bytes] = [intArgument('a file descriptor', fd), sizeArgument('the length of a file', byteLength)];
  const result = uninterrupted(() => resultOrNegativeErrno(cFtruncate(file, bytes)));
  if (result < 0) throw new SyscallError('ftruncate', -result, `to ${byteLength} bytes`);
}

export function fallocate(fd: number, mode: number, offset: number, byteLength: number): void {
  const file = intArgument('a file descriptor', fd);
  const [from, bytes] = [sizeArgument('an offset', offset), sizeArgument('a length', byteLength)];
  const result = uninterrupted(() => resultOrNegativeErrno(cFallocate(file, mode, from, bytes)));
  if (result < 0) throw new SyscallError('fallocate', -result, `mode ${mode} of ${byteLength} bytes at ${offset}`);
}

/** Gives the memory of a range back to the host; it reads as zero afterwards, through every mapping of the file. */
export function punchHole(fd: number, offset: number, byteLength: number): void {
  fallocate(fd, FallocateMode.FALLOC_FL_PUNCH_HOLE | FallocateMode.FALLOC_FL_KEEP_SIZE, offset, byteLength);
}

/** Offset of the first data at or after `offset`, or -1 when only a hole follows. Moves the file's own offset. */
export function seekData(fd: number, offset: number): number {
  return seek(fd, offset, 'SEEK_DATA');
}

/** Offset of the first hole at or after `offset` (the file's end counts as one), or -1 beyond the end. */
export function seekHole(fd: number, offset: number): number {
  return seek(fd, offset, 'SEEK_HOLE');
}

function seek(fd: number, offset: number, whence: keyof typeof SeekWhence): number {
  const result = resultOrNegativeErrno(
    cLseek(intArgument('a file descriptor', fd), sizeArgument('an offset', offset), SeekWhence[whence]),
  );
  if (result >= 0) return result;
  if (result === -Errno.ENXIO) return -1;
  throw new SyscallError('lseek', -result, `${whence} from ${offset}`);
}
