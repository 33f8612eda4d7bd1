import { check, resultOrNegativeErrno } from './call.js';
import { Errno } from './errno.js';
import { OpenFlags } from './file-descriptor.js';
import { intArgument, sizeArgument } from './integer-argument.js';
import { cFunction } from './library.js';
import { addressOf } from './mapping.js';

/*
 * Connected stream sockets, read and written by a thread that blocks in the call, without an event loop between the
 * socket and guest memory.
 */
const AF_UNIX = 1;
const SOCK_STREAM_CLOEXEC = 0o2000001;

const cFcntl = cFunction<[number, number, number], number>('fcntl', 'int', ['int', 'int', 'long']);
const cSocketpair = cFunction<[number, number, number, Uint8Array], number>('socketpair', 'int', [
  'int',
  'int',
  'int',
  'void *',
]);
const cShutdown = cFunction<[number, number], number>('shutdown', 'int', ['int', 'int']);
const cSetsockopt = cFunction<[number, number, number, Uint8Array, number], number>('setsockopt', 'int', [
  'int',
  'int',
  'int',
  'const void *',
  'unsigned int',
]);
const cSendmsg = cFunction<[number, Uint8Array, number], number>('sendmsg', 'long', ['int', 'const void *', 'int']);
const cRecv = cFunction<[number, Uint8Array, number, number], number>('recv', 'long', [
  'int',
  'void *',
  'size_t',
  'int',
]);

/** fcntl.h */
export const FileControl = { F_GETFL: 3, F_SETFL: 4 } as const;
/** sys/socket.h */
export const SocketNumbers = {
  SHUT_RD: 0,
  SHUT_WR: 1,
  SHUT_RDWR: 2,
  SOL_SOCKET: 1,
  SO_LINGER: 13,
  SO_RCVTIMEO: 20,
  MSG_PEEK: 0x2,
  MSG_DONTWAIT: 0x40,
  MSG_WAITALL: 0x100,
  MSG_NOSIGNAL: 0x4000,
} as const;
/** linux/uio.h: the most entries of one call. */
export const UIO_MAXIOV = 1024;

/** bits/types/struct_iovec.h, in bytes. */
export const IOVEC = { size: 16, fields: { iov_base: [0, 8], iov_len: [8, 8] } } as const;
/** bits/socket.h, in bytes. */
export const MSGHDR = {
  size: 56,
  fields: {
    msg_name: [0, 8],
    msg_namelen: [8, 4],
    msg_iov: [16, 8],
    msg_iovlen: [24, 8],
    msg_control: [32, 8],
    msg_controllen: [40, 8],
    msg_flags: [48, 4],
  },
} as const;

/** `socketpair(2)`: two UNIX stream sockets that are connected with each other, close-on-exec. Throws `SyscallError`. */
export function socketPair(): readonly [number, number] {
  const fds = new Int32Array(2);
  check('socketpair', cSocketpair(AF_UNIX, SOCK_STREAM_CLOEXEC, 0, new Uint8Array(fds.buffer)));
  return [fds[0] as number, fds[1] as number];
}

/**
 * Whether calls on a descriptor wait; a property of the open file, and so of its duplicates too.
 *
 * @example
 * setBlocking(fd, true); // for a thread that does nothing but read it
 */
export function setBlocking(fd: number, blocking: boolean): void {
  const flags = check('fcntl F_GETFL', cFcntl(fd, FileControl.F_GETFL, 0), `file descriptor ${fd}`);
  const wanted = blocking ? flags & ~OpenFlags.O_NONBLOCK : flags | OpenFlags.O_NONBLOCK;
  if (wanted !== flags) check('fcntl F_SETFL', cFcntl(fd, FileControl.F_SETFL, wanted), `file descriptor ${fd}`);
}

/**
 * `shutdown(2)`: ends one direction or both, and wakes every thread that waits in `recv` or `send` on the socket. Returns
 * false when the peer is already gone (ENOTCONN).
 */
export function shutdownSocket(fd: number, how: number): boolean {
  const result = resultOrNegativeErrno(cShutdown(fd, how));
  if (result === -Errno.ENOTCONN) return false;
  check('shutdown', result < 0 ? -1 : result, `file descriptor ${fd}`);
  return true;
}

/** Makes the `close` of the last descriptor a reset (TCP): the peer can distinguish it from a clean end. */
export function resetOnClose(fd: number): void {
  // struct linger: l_onoff, l_linger (seconds).
  const linger = new Uint8Array(new Int32Array([1, 0]).buffer);
  const { SOL_SOCKET, SO_LINGER } = SocketNumbers;
  check('setsockopt SO_LINGER', cSetsockopt(fd, SOL_SOCKET, SO_LINGER, linger, linger.byteLength), `socket ${fd}`);
}

/**
 * Limits the time for which calls wait for bytes: after it they return the bytes that have come, or EAGAIN without any
 * (`SO_RCVTIMEO`, on 64-bit machines a `struct timeval` of two longs, in microseconds). 0 waits for ever.
 *
 * @example
 * setReceiveTimeout(fd, 30_000); // a silent peer ends the wait
 */
export function setReceiveTimeout(fd: number, ms: number): void {
  const { SOL_SOCKET, SO_RCVTIMEO } = SocketNumbers;
  intArgument('a file descriptor', fd);
  // The time is rounded up, since 0 would mean to wait for ever.
  const microseconds = sizeArgument('a receive timeout, in microseconds,', Math.ceil(ms * 1000));
  const parts = [Math.floor(microseconds / 1e6), microseconds % 1e6];
  const time = new Uint8Array(new BigInt64Array(parts.map(BigInt)).buffer);
  check('setsockopt SO_RCVTIMEO', cSetsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, time, time.byteLength), `socket ${fd}`);
}

/** `recv(2)` into the first `most` bytes of `into`: bytes received (0 at the end), or minus errno. */
export function receiveFrom(fd: number, into: Uint8Array, most = into.byteLength, flags = 0): number {
  return resultOrNegativeErrno(cRecv(fd, into, Math.min(most, into.byteLength), flags));
}

/**
 * A list of pieces of memory for one gathering write (`struct iovec[]`); the list is made once and filled for each write.
 */
export class GatherList {
  readonly #entries = new BigUint64Array(UIO_MAXIOV * 2);
  readonly #header: Uint8Array;
  readonly #count: DataView;
  #length = 0;

  constructor() {
    this.#header = new Uint8Array(new ArrayBuffer(MSGHDR.size));
    this.#count = new DataView(this.#header.buffer);
    this.#count.setBigUint64(MSGHDR.fields.msg_iov[0], addressOf(this.#entries), true);
  }

  get full(): boolean {
    return this.#length === UIO_MAXIOV;
  }

  get length(): number {
    return this.#length;
  }

  clear(): void {
    this.#length = 0;
  }

  push(address: bigint, byteLength: number): void {
    const at = this.#length++ * 2;
    this.#entries[at] = address;
    this.#entries[at + 1] = BigInt(byteLength);
  }

  /** `sendmsg(2)` of all pieces from the `first` on: bytes that the kernel has taken, or minus errno. Never a SIGPIPE. */
  send(fd: number, first = 0): number {
    this.#count.setBigUint64(MSGHDR.fields.msg_iov[0], addressOf(this.#entries) + BigInt(first * IOVEC.size), true);
    this.#count.setBigUint64(MSGHDR.fields.msg_iovlen[0], BigInt(this.#length - first), true);
    return resultOrNegativeErrno(cSendmsg(fd, this.#header, SocketNumbers.MSG_NOSIGNAL));
  }

  /** Removes `bytes` bytes that were sent from the list; returns the first piece that is left. */
  advance(first: number, bytes: number): number {
    let at = first;
    let left = BigInt(bytes);
    while (at < this.#length) {
      const length = this.#entries[at * 2 + 1] as bigint;
      if (left < length) {
        this.#entries[at * 2] = (this.#entries[at * 2] as bigint) + left;
        this.#entries[at * 2 + 1] = length - left;
        break;
      }
      left -= length;
      at++;
    }
    return at;
  }
}
