import { GodwitError } from '@godwit/core';
import {
  addressOf,
  Errno,
  errnoName,
  GatherList,
  receiveFrom,
  SocketNumbers,
  setBlocking,
  setReceiveTimeout,
  shutdownSocket,
} from '@godwit/linux';
import type { ByteStream } from '@godwit/transport';

/**
 * Bytes that are read beyond what is wanted. The head of a frame is wanted with these to spare; more would be the start of its
 * payload, which would be copied once more on its way to guest memory.
 */
const READ_AHEAD = 1024;

/** How long bytes that have come may stay uncounted, while more are waited for: a slow link is not a silent one. */
const COUNT_MS = 100;

/**
 * A byte stream over a connected socket, for a thread that has nothing else to do: every call waits in the kernel until it
 * is done, and its promise has settled when it returns. `shutdown` of the socket, from any thread, gets it out of there.
 *
 * The descriptor stays its owner's, but its calls wait from now on.
 */
export class DescriptorStream implements ByteStream {
  readonly peer: string;
  readonly #fd: number;
  readonly #gather = new GatherList();
  readonly #received: BigInt64Array;
  #unread: Uint8Array;

  /** `unread`: bytes that come before those of the socket. `received` counts what was read from the socket. */
  constructor(fd: number, peer: string, unread: Uint8Array, received: BigInt64Array) {
    this.#fd = fd;
    this.peer = peer;
    this.#unread = unread;
    this.#received = received;
    setBlocking(fd, true);
    setReceiveTimeout(fd, COUNT_MS);
  }

  async write(chunks: readonly Uint8Array[]): Promise<void> {
    const gather = this.#gather;
    gather.clear();
    for (const chunk of chunks) {
      if (chunk.length === 0) continue;
      if (gather.full) this.#send();
      gather.push(addressOf(chunk), chunk.length);
    }
    if (gather.length > 0) this.#send();
  }

  async read(into: Uint8Array, wanted = into.length): Promise<number> {
    const unread = this.#unread;
    if (unread.length > 0) {
      const count = Math.min(unread.length, into.length);
      into.set(unread.subarray(0, count));
      this.#unread = unread.subarray(count);
      return count;
    }
    // All of a payload in one call, without a way through this thread for each piece of it.
    const whole = wanted >= into.length;
    const most = whole ? into.length : Math.max(wanted, READ_AHEAD);
    for (;;) {
      const count = receiveFrom(this.#fd, into, most, whole ? SocketNumbers.MSG_WAITALL : 0);
      if (count >= 0) {
        Atomics.add(this.#received, 0, BigInt(count));
        return count;
      }
      if (count !== -Errno.EINTR && count !== -Errno.EAGAIN) throw this.#lost('recv', -count);
    }
  }

  async close(): Promise<void> {
    shutdownSocket(this.#fd, SocketNumbers.SHUT_WR);
  }

  abort(): void {
    shutdownSocket(this.#fd, SocketNumbers.SHUT_RDWR);
  }

  #send(): void {
    const gather = this.#gather;
    let first = 0;
    while (first < gather.length) {
      const count = gather.send(this.#fd, first);
      if (count >= 0) first = gather.advance(first, count);
      else if (count !== -Errno.EINTR) throw this.#lost('sendmsg', -count);
    }
    gather.clear();
  }

  #lost(call: string, errno: number): GodwitError {
    return new GodwitError('GODWIT_LINK_LOST', `the link to ${this.peer} was lost: ${call} ${errnoName(errno)}`);
  }
}
