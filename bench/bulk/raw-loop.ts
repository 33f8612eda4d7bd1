import koffi from 'koffi';

/**
 * The reference: blocking `send` and `recv` of libc in a loop, without event loop, framing or engine.
 */
const libc = koffi.load('libc.so.6');
const socket = libc.func('int socket(int domain, int type, int protocol)');
const bind = libc.func('int bind(int fd, void *address, uint32_t length)');
const listen = libc.func('int listen(int fd, int backlog)');
const accept = libc.func('int accept(int fd, void *address, void *length)');
const connect = libc.func('int connect(int fd, void *address, uint32_t length)');
const getsockname = libc.func('int getsockname(int fd, _Inout_ void *address, _Inout_ uint32_t *length)');
const send = libc.func('int64_t send(int fd, void *bytes, size_t length, int flags)');
const recv = libc.func('int64_t recv(int fd, void *bytes, size_t length, int flags)');
const close = libc.func('int close(int fd)');
const pipe2 = libc.func('int pipe2(_Out_ int *ends, int flags)');
const fcntl = libc.func('int fcntl(int fd, int command, long argument)');
const vmsplice = libc.func('int64_t vmsplice(int fd, void *vectors, size_t count, uint32_t flags)');
const splice = libc.func(
  'int64_t splice(int from, void *offsetFrom, int to, void *offsetTo, size_t length, uint32_t flags)',
);

/** asm-generic/socket.h, bits/socket.h */
const AF_INET = 2;
const SOCK_STREAM = 1;
/** asm-generic/fcntl.h: F_LINUX_SPECIFIC_BASE (1024) + 7 */
const F_SETPIPE_SZ = 1031;
/** linux/splice.h */
const SPLICE_F_MOVE = 1;
const SPLICE_F_MORE = 4;

/** The bytes that a pipe holds, for a user who may have that much: /proc/sys/fs/pipe-max-size. */
const PIPE_BYTES = 2 ** 20;

/** `struct sockaddr_in` for 127.0.0.1, netinet/in.h. */
function loopback(port: number): Buffer {
  const address = Buffer.alloc(16);
  address.writeUInt16LE(AF_INET, 0);
  address.writeUInt16BE(port, 2);
  address.writeUInt32BE(0x7f000001, 4);
  return address;
}

function check(result: number | bigint, call: string): number {
  const value = Number(result);
  if (value < 0) throw new Error(`${call} failed with errno ${koffi.errno()}`);
  return value;
}

/** A listening socket on 127.0.0.1. */
export function listenRaw(): { readonly fd: number; readonly port: number } {
  const fd = check(socket(AF_INET, SOCK_STREAM, 0), 'socket');
  const address = loopback(0);
  check(bind(fd, address, address.length), 'bind');
  check(listen(fd, 1), 'listen');
  check(getsockname(fd, address, [address.length]), 'getsockname');
  return { fd, port: address.readUInt16BE(2) };
}

/**
 * Accepts one connection and receives `byteLength` bytes in pieces of at most `pieceBytes`: to `address` onwards, or
 * over and over into `buffer`. Answers with one byte. Returns the milliseconds from the first byte to the last.
 */
export function receiveRaw(listener: number, into: bigint | Buffer, byteLength: number, pieceBytes: number): number {
  const fd = check(accept(listener, null, null), 'accept');
  let received = check(recv(fd, typeof into === 'bigint' ? into : into, 1, 0), 'recv');
  const start = performance.now();
  while (received < byteLength) {
    const target = typeof into === 'bigint' ? into + BigInt(received) : into;
    const count = check(recv(fd, target, Math.min(pieceBytes, byteLength - received), 0), 'recv');
    if (count === 0) throw new Error('the sender closed early');
    received += count;
  }
  const ms = performance.now() - start;
  check(send(fd, Buffer.from([1]), 1, 0), 'send');
  close(fd);
  close(listener);
  return ms;
}

/** Connects and sends `byteLength` bytes from `address` on, then waits for the receiver's byte. */
export function sendRaw(port: number, address: bigint, byteLength: number, pieceBytes: number): void {
  const fd = connectRaw(port);
  let sent = 0;
  while (sent < byteLength) {
    sent += check(send(fd, address + BigInt(sent), Math.min(pieceBytes, byteLength - sent), 0), 'send');
  }
  awaitByte(fd);
}

/** Does the same without a copy: the kernel puts the pages themselves into a pipe, and from there into the socket. */
export function sendSpliced(port: number, address: bigint, byteLength: number): void {
  const fd = connectRaw(port);
  const ends = new Int32Array(2);
  check(pipe2(ends, 0), 'pipe2');
  const [from, to] = ends as unknown as [number, number];
  const most = Math.max(65_536, fcntl(to, F_SETPIPE_SZ, PIPE_BYTES) as number);
  // struct iovec, bits/types/struct_iovec.h
  const vector = new BigUint64Array(2);
  for (let sent = 0; sent < byteLength; ) {
    vector.set([address + BigInt(sent), BigInt(Math.min(most, byteLength - sent))]);
    let left = check(vmsplice(to, vector, 1, 0), 'vmsplice');
    sent += left;
    const more = sent < byteLength ? SPLICE_F_MORE : 0;
    while (left > 0) left -= check(splice(from, null, fd, null, left, SPLICE_F_MOVE | more), 'splice');
  }
  awaitByte(fd);
  close(from);
  close(to);
}

function connectRaw(port: number): number {
  const fd = check(socket(AF_INET, SOCK_STREAM, 0), 'socket');
  const peer = loopback(port);
  check(connect(fd, peer, peer.length), 'connect');
  return fd;
}

/** Waits until the receiver has everything, and closes the connection. */
function awaitByte(fd: number): void {
  check(recv(fd, Buffer.alloc(1), 1, 0), 'recv');
  close(fd);
}
