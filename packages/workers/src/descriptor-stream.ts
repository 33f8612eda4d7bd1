import { GodwitError } from '@godwit/core';
import { addressOf, Errno, errnoName, GatherList, receiveFrom, SocketNumbers, shutdownSocket } from '@godwit/linux';
import type { ByteStream } from '@godwit/transport';

/**
 * A byte stream over a connected socket, for a thread that has nothing else to do: every call waits in the kernel until it
 * is done, and its promise has settled when it returns. `shutdown` of the socket, from any thread, gets it out of there.
 *
 * The descriptor stays its owner's.
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

  async read(into: Uint8Array): Promise<number> {
    const unread = this.#unread;
    if (unread.length > 0) {
      const count = Math.min(unread.length, into.length);
      into.set(unread.subarray(0, count));
      this.#unread = unread.subarray(count);
      return count;
    }
    for (;;) {
      const count = receiveFrom(this.#fd, into);
      if (count >= 0) {
        Atomics.add(this.#received, 0, BigInt(count));
        return count;
      }
      if (count !== -Errno.EINTR) throw this.#lost('recv', -count);
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
