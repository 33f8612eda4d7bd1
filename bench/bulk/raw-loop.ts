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

/** asm-generic/socket.h, bits/socket.h */
const AF_INET = 2;
const SOCK_STREAM = 1;

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
  const fd = check(socket(AF_INET, SOCK_STREAM, 0), 'socket');
  const peer = loopback(port);
  check(connect(fd, peer, peer.length), 'connect');
  let sent = 0;
  while (sent < byteLength) {
    sent += check(send(fd, address + BigInt(sent), Math.min(pieceBytes, byteLength - sent), 0), 'send');
  }
  check(recv(fd, Buffer.alloc(1), 1, 0), 'recv');
  close(fd);
}
