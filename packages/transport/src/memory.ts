import { checkOptions, GodwitError, nonNegative } from '@godwit/core';
import { AcceptQueue } from './stream/accept-queue.js';
import type { ByteStream, Listener, Transport } from './stream/byte-stream.js';
import { throwIfCancelled } from './stream/cancellation.js';
import { MemoryPipe } from './stream/memory-pipe.js';

/** Options of `memory`. */
export interface MemoryOptions {
  /** The bytes that each direction buffers, like a socket's buffer. Default: 64 KiB. */
  readonly bufferBytes?: number;
}

let count = 0;

/**
 * Streams inside one process, without sockets: for tests and for two VMs in one VMM. Connects to the listener of the
 * same `memory()` object. Bytes are copied once, from the writer's memory into the reader's.
 *
 * @example
 * const transport = memory();
 * const incoming = receive(await listenOn(transport), { prepare });
 * await migrate(vm, connectTo(transport)).result;
 */
export function memory(options: MemoryOptions = {}): Transport {
  checkOptions<MemoryOptions>('memory', options, { bufferBytes: true });
  const bufferBytes = nonNegative('bufferBytes', options.bufferBytes ?? 64 * 1024);
  const address = `memory:${++count}`;
  let current: AcceptQueue | undefined;
  return {
    async connect(signal?: AbortSignal): Promise<ByteStream> {
      throwIfCancelled(signal, `connecting to ${address}`);
      if (current === undefined) {
        throw new GodwitError('GODWIT_CONNECT_FAILED', `nobody listens on ${address}; call listen() first`);
      }
      const [near, far] = memoryPair(address, bufferBytes);
      current.push(far);
      return near;
    },
    async listen(signal?: AbortSignal): Promise<Listener> {
      throwIfCancelled(signal, `listening on ${address}`);
      if (current !== undefined) {
        throw new GodwitError('GODWIT_CONNECT_FAILED', `${address} is listened on already; make another memory()`);
      }
      const queue = new AcceptQueue(address);
      current = queue;
      return {
        address,
        accept: (acceptSignal) => queue.shift(acceptSignal),
        close: async () => {
          if (current === queue) current = undefined;
          queue.close();
        },
      };
    },
  };
}

/**
 * Two ends of one stream.
 *
 * @example
 * const [near, far] = memoryPair();
 * await near.write([Uint8Array.of(1, 2)]);
 * await far.read(new Uint8Array(16)); // 2
 */
export function memoryPair(peer = 'memory', bufferBytes = 64 * 1024): [ByteStream, ByteStream] {
  const there = new MemoryPipe(peer, bufferBytes);
  const back = new MemoryPipe(peer, bufferBytes);
  return [end(peer, there, back), end(peer, back, there)];
}

function end(peer: string, out: MemoryPipe, into: MemoryPipe): ByteStream {
  return {
    peer,
    write: (chunks) => out.write(chunks),
    read: (target, wanted = 1) => into.read(target, wanted),
    get pendingBytes() {
      return into.pendingBytes;
    },
    close: () => out.end(),
    abort: (reason) => {
      const lost = new GodwitError('GODWIT_LINK_LOST', `the peer dropped ${peer}: ${reason.message}`);
      out.fail(reason, lost);
      into.fail(lost, reason);
    },
  };
}
