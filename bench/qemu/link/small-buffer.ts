import koffi from 'koffi';

/** asm-generic/socket.h, bits/socket.h, netinet/in.h */
const AF_INET = 2;
const SOCK_STREAM = 1;
const SOL_SOCKET = 1;
const SO_RCVBUF = 8;
/** Bytes of the receive buffer, which the kernel doubles: two milliseconds of 1 Gbit/s. */
const RECEIVE_BYTES = 128 * 1024;
const SOCKADDR_BYTES = 16;

/**
 * Makes a listening socket on 127.0.0.1 whose connections have a small receive buffer. With a buffer of the usual size, the sender could
 * write megabytes that the slow link has not forwarded yet, and would measure the speed of loopback.
 */
export function listenWithSmallBuffer(): { readonly fd: number; readonly port: number } {
  const libc = koffi.load('libc.so.6');
  const socket = libc.func('int socket(int domain, int type, int protocol)');
  const setsockopt = libc.func('int setsockopt(int fd, int level, int name, void *value, uint32_t length)');
  const bind = libc.func('int bind(int fd, void *address, uint32_t length)');
  const listen = libc.func('int listen(int fd, int backlog)');
  const getsockname = libc.func('int getsockname(int fd, _Inout_ void *address, _Inout_ uint32_t *length)');
  const check = (result: number, call: string): number => {
    if (result < 0) throw new Error(`${call} failed with errno ${koffi.errno()}`);
    return result;
  };
  const fd = check(socket(AF_INET, SOCK_STREAM, 0), 'socket');
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(RECEIVE_BYTES);
  check(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, bytes, bytes.length), 'setsockopt');
  const address = Buffer.alloc(SOCKADDR_BYTES);
  address.writeUInt16LE(AF_INET, 0);
  address.writeUInt32BE(0x7f000001, 4);
  check(bind(fd, address, address.length), 'bind');
  check(listen(fd, 64), 'listen');
  check(getsockname(fd, address, [address.length]), 'getsockname');
  return { fd, port: address.readUInt16BE(2) };
}
