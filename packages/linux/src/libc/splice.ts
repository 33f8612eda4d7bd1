import { check, resultOrNegativeErrno } from './call.js';
import { Errno } from './errno.js';
import { closeFd, OpenFlags } from './file-descriptor.js';
import { intArgument, sizeArgument } from './integer-argument.js';
import { cFunction } from './library.js';

const cPipe2 = cFunction<[Uint8Array, number], number>('pipe2', 'int', ['void *', 'int']);
const cFcntl = cFunction<[number, number, number], number>('fcntl', 'int', ['int', 'int', 'long']);
const cSplice = cFunction<[number, Uint8Array | null, number, Uint8Array | null, number, number], number>(
  'splice',
  'long',
  ['int', 'void *', 'int', 'void *', 'size_t', 'unsigned int'],
);

/** asm-generic/fcntl.h: F_LINUX_SPECIFIC_BASE (1024) + 7 */
const F_SETPIPE_SZ = 1031;

/** linux/splice.h */
export const SpliceFlags = { SPLICE_F_MOVE: 1, SPLICE_F_NONBLOCK: 2, SPLICE_F_MORE: 4 } as const;

/**
 * Puts bytes of a socket into a file through a pipe, in which the kernel keeps them meanwhile (splice(2)): they are never in memory of
 * this process. The maker of the pipe closes it.
 */
export class SplicePipe {
  readonly #read: number;
  readonly #write: number;
  readonly #byteLength: number;
  readonly #position = new BigInt64Array(1);
  readonly #offset = new Uint8Array(this.#position.buffer);
  #closed = false;

  /**
   * @param byteLength most bytes that are under way at a time; a user without CAP_SYS_RESOURCE gets at most /proc/sys/fs/pipe-max-size
   * @throws SyscallError when there are no more descriptors
   */
  constructor(byteLength = 2 ** 20) {
    const ends = new Int32Array(new ArrayBuffer(8));
    check('pipe2', cPipe2(new Uint8Array(ends.buffer), OpenFlags.O_CLOEXEC));
    [this.#read, this.#write] = ends as Iterable<number> as [number, number];
    const size = resultOrNegativeErrno(cFcntl(this.#write, F_SETPIPE_SZ, sizeArgument('a size', byteLength)));
    // If a pipe of that size is not allowed, it keeps the default size.
    this.#byteLength = size > 0 ? size : 65_536;
  }

  /**
   * Waits for bytes of the socket, as `recv` would. Returns the number of bytes, at most `most`, that went into `file` at `position`, 0 at
   * the end of the stream, or minus errno. EAGAIN and EINTR come only before any byte was taken.
   */
  move(socket: number, file: number, position: number, most: number): number {
    const { SPLICE_F_MOVE, SPLICE_F_MORE } = SpliceFlags;
    const count = Math.min(most, this.#byteLength);
    const taken = resultOrNegativeErrno(
      cSplice(intArgument('a socket', socket), null, this.#write, null, count, SPLICE_F_MOVE),
    );
    if (taken <= 0) return taken;
    this.#position[0] = BigInt(position);
    for (let left = taken; left > 0; ) {
      const put = resultOrNegativeErrno(
        cSplice(this.#read, null, intArgument('a file', file), this.#offset, left, SPLICE_F_MOVE | SPLICE_F_MORE),
      );
      if (put === 0) return -Errno.ENOSPC;
      if (put < 0 && put !== -Errno.EINTR) return put;
      left -= Math.max(0, put);
    }
    return taken;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeFd(this.#read);
    closeFd(this.#write);
  }
}
