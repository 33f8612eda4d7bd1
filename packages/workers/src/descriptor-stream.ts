import { writeSync } from 'node:fs';
import { GodwitError } from '@godwit/core/errors';
import { addressOf, Errno, errnoName, GatherList, SocketNumbers, shutdownSocket } from '@godwit/linux/unstable/libc';
import type { BlockingCalls, ByteStream } from '@godwit/transport';
import { PollingReceiver } from './polling-receiver.js';

/**
 * The most bytes that one receive reads beyond those that were asked for. Reading ahead saves calls for the head of a frame; more bytes
 * would be the start of the payload, which would be copied once more on its way to guest memory.
 */
const READ_AHEAD = 1024;

/**
 * A byte stream over a connected socket, for a thread that has no other work: every call blocks in the kernel until it is done, and the
 * promise that it returns has already settled. `shutdown` of the socket, from any thread, ends a call that blocks.
 *
 * The descriptor still belongs to its owner, who closes it; calls on it block from now on.
 */
export class DescriptorStream implements ByteStream {
  readonly peer: string;
  readonly #fd: number;
  readonly #gather = new GatherList();
  readonly #receiver: PollingReceiver;
  readonly #readAhead: number;
  #unread: Uint8Array;

  /**
   * `unread`: bytes that come before those of the socket. `received` counts what was read from the socket. With a `readAhead` of 0 only
   * the bytes that were asked for are read, so that between two frames the socket shows whether another has come.
   */
  constructor(fd: number, peer: string, unread: Uint8Array, received: BigInt64Array, readAhead = READ_AHEAD) {
    this.#readAhead = readAhead;
    this.#fd = fd;
    this.peer = peer;
    this.#unread = unread;
    this.#receiver = new PollingReceiver(fd, (bytes) => Atomics.add(received, 0, BigInt(bytes)));
  }

  /**
   * From now on a receive polls for so many milliseconds before it blocks; 0: it blocks at once. A polling thread yields its processor, and
   * gets it back only when the other thread has used up its time; a blocked one of higher priority gets it when the bytes come.
   */
  pollFor(milliseconds: number): void {
    this.#receiver.pollMs = milliseconds;
  }

  /** The number of bytes that have come and were not handed out. */
  get unreadBytes(): number {
    return this.#unread.length;
  }

  /** `read` and `write` without promises. */
  readonly blocking: BlockingCalls = {
    read: (into, wanted) => this.#readNow(into, wanted),
    write: (chunks) => this.#writeNow(chunks),
  };

  async write(chunks: readonly Uint8Array[]): Promise<void> {
    this.#writeNow(chunks);
  }

  async read(into: Uint8Array, wanted = into.length): Promise<number> {
    return this.#readNow(into, wanted);
  }

  #writeNow(chunks: readonly Uint8Array[]): void {
    const gather = this.#gather;
    gather.clear();
    for (const chunk of chunks) {
      if (chunk.length === 0) continue;
      if (gather.full) this.#send();
      gather.push(addressOf(chunk), chunk.length);
    }
    if (gather.length > 0) this.#send();
  }

  #readNow(into: Uint8Array, wanted: number): number {
    const unread = this.#unread;
    if (unread.length > 0) {
      const count = Math.min(unread.length, into.length);
      into.set(unread.subarray(0, count));
      this.#unread = unread.subarray(count);
      return count;
    }
    // A loop takes less time than a promise for each piece of the payload.
    const count =
      wanted >= into.length ? this.#receiver.all(into) : this.#receiver.some(into, Math.max(wanted, this.#readAhead));
    if (count < 0) throw this.#lost('recv', -count);
    return count;
  }

  async readIntoFile(file: number, position: number, most: number): Promise<number> {
    const unread = this.#unread;
    if (unread.length > 0) {
      const count = writeSync(file, unread, 0, Math.min(unread.length, most), position);
      this.#unread = unread.subarray(count);
      return count;
    }
    const count = this.#receiver.intoFile(file, position, most);
    if (count < 0) throw this.#lost('splice', -count);
    return count;
  }

  /** Frees what the stream holds, except its descriptor. The stream must not be used afterwards. */
  free(): void {
    this.#receiver.close();
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
