import { closeSync, createWriteStream, fstatSync, openSync } from 'node:fs';
import net from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { isatty } from 'node:tty';
import { GodwitError } from '@godwit/core';
import { AcceptQueue } from '../stream/accept-queue.js';
import type { ByteStream, Listener, Transport } from '../stream/byte-stream.js';
import { ChunkReceiver } from '../stream/chunk-receiver.js';
import { GatherWriter } from './gather-writer.js';

const ADDRESS = 'stdio:';
const STDIN = 0;
const STDOUT = 1;

let taken = false;

/**
 * Standard input and output of this process as the one stream: for a program that another program starts by `exec`, or
 * that is part of a pipeline. Both `connect` and `accept` resolve with this stream, once; there are no page channels
 * beside it.
 *
 * No other code may read standard input or write standard output from then on: `console.log` would end up in the middle
 * of a guest's memory. Messages belong on standard error. A terminal is refused.
 *
 * @example
 * // In the program that `exec('ssh vm-host my-vmm --receive')` runs.
 * const { vm } = await receive(await listenOn(stdio()), { prepare }).result;
 */
export function stdio(): Transport {
  return {
    connect: async () => take(),
    async listen(): Promise<Listener> {
      const queue = new AcceptQueue(ADDRESS);
      queue.push(take());
      return { address: ADDRESS, accept: (signal) => queue.shift(signal), close: async () => queue.close() };
    },
  };
}

function take(): ByteStream {
  if (taken) throw new GodwitError('GODWIT_CONNECT_FAILED', 'standard input and output are one stream, taken already');
  if (isatty(STDIN) || isatty(STDOUT)) {
    throw new GodwitError(
      'GODWIT_CONNECT_FAILED',
      'standard input or output is a terminal; start this program through exec, ssh or a pipe',
    );
  }
  taken = true;
  return new StdioStream(process.stdin, openOutput());
}

/** Opens descriptor 1 as a stream: `process.stdout` can neither be ended nor written without blocking. */
function openOutput(): Writable {
  const stat = fstatSync(STDOUT);
  if (stat.isFIFO() || stat.isSocket()) return new net.Socket({ fd: STDOUT, readable: false, writable: true });
  return createWriteStream('', { fd: STDOUT, autoClose: false });
}

class StdioStream implements ByteStream {
  readonly peer = ADDRESS;
  readonly #input: Readable;
  readonly #output: Writable;
  readonly #receiver: ChunkReceiver;
  readonly #writer: GatherWriter;
  #outputOpen = true;
  #inputEnded = false;
  #aborted = false;

  constructor(input: Readable, output: Writable) {
    this.#input = input;
    this.#output = output;
    this.#receiver = new ChunkReceiver(input);
    this.#writer = new GatherWriter(output, ADDRESS, (error) => this.#lost(error));
    input.on('error', (error) => this.#lost(error));
    input.once('end', () => {
      this.#inputEnded = true;
      this.#receiver.end();
    });
  }

  write(chunks: readonly Uint8Array[]): Promise<void> {
    return this.#writer.write(chunks);
  }

  get pendingBytes(): number {
    return this.#receiver.pendingBytes;
  }

  read(into: Uint8Array, wanted = 1): Promise<number> {
    return this.#receiver.read(into, wanted);
  }

  async close(): Promise<void> {
    await this.#writer.end();
    this.#closeOutput();
  }

  abort(reason: GodwitError): void {
    if (this.#aborted) return;
    this.#aborted = true;
    this.#input.destroy();
    this.#closeOutput();
    this.#writer.fail(reason);
    this.#receiver.abort(reason);
  }

  #lost(error: Error): void {
    if (this.#aborted) return;
    const lost = new GodwitError('GODWIT_LINK_LOST', `the link through ${ADDRESS} was lost: ${error.message}`, {
      cause: error,
    });
    this.#closeOutput();
    this.#writer.fail(lost);
    if (!this.#inputEnded) this.#receiver.fail(lost);
  }

  /** Closes descriptor 1: libuv never closes descriptors 0 to 2, but the reader of a pipe waits for its end. */
  #closeOutput(): void {
    if (!this.#outputOpen) return;
    this.#outputOpen = false;
    this.#output.destroy();
    closeSync(STDOUT);
    // Descriptor 1 must stay in use: the system would otherwise give it to the next file that is opened.
    openSync('/dev/null', 'w');
  }
}
