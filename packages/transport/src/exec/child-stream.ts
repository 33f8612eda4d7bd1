import type { ChildProcess } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import { GodwitError } from '@godwit/core';
import type { ByteStream } from '../stream/byte-stream.js';
import { ChunkReceiver } from '../stream/chunk-receiver.js';
import { GatherWriter } from './gather-writer.js';
import { LastWords } from './last-words.js';

/**
 * How long the stream waits for the exit code of a child whose pipes have ended, which is about to exit. Milliseconds.
 */
const EXIT_GRACE_MS = 250;
/** The time from SIGTERM to SIGKILL. Milliseconds. */
const KILL_MS = 1_000;

/** The standard input and output of a child process as a byte stream. */
export class ChildStream implements ByteStream {
  readonly peer: string;
  readonly #child: ChildProcess;
  readonly #group: boolean;
  readonly #lingerMs: number;
  readonly #output: Readable;
  readonly #receiver: ChunkReceiver;
  readonly #writer: GatherWriter;
  readonly #lastWords: LastWords;
  readonly #onProcessExit = (): void => this.#signal('SIGKILL');
  #timer: NodeJS.Timeout | undefined;
  #exit: { code: number | null; signal: string | null } | undefined;
  #outputEnded = false;
  #told = false;
  #failing: Error | undefined;
  #ended = false;
  #aborted = false;

  constructor(child: ChildProcess, peer: string, group: boolean, lingerMs: number) {
    this.peer = peer;
    this.#child = child;
    this.#group = group;
    this.#lingerMs = lingerMs;
    this.#output = child.stdout as Readable;
    this.#lastWords = new LastWords(child.stderr as Readable);
    this.#receiver = new ChunkReceiver(this.#output);
    this.#writer = new GatherWriter(child.stdin as Writable, peer, (error) => this.#broken(error));
    process.once('exit', this.#onProcessExit);
    this.#output.on('error', (error) => this.#broken(error));
    this.#output.once('end', () => {
      this.#outputEnded = true;
      this.#settleSoon();
    });
    child.once('exit', (code, signal) => {
      this.#exit = { code, signal };
      clearTimeout(this.#timer);
      process.removeListener('exit', this.#onProcessExit);
    });
    // At `close` all pipes have ended: nothing more comes, on standard error either.
    child.once('close', () => this.#settle());
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
    this.#endIfOver();
  }

  abort(reason: GodwitError): void {
    if (this.#aborted) return;
    this.#aborted = true;
    this.#letGo();
    this.#writer.fail(reason);
    this.#receiver.abort(reason);
    this.#kill();
  }

  /** Handles a broken pipe. The child has probably ended: its messages and its exit code explain more than EPIPE. */
  #broken(error: Error): void {
    this.#failing ??= error;
    this.#settleSoon();
  }

  #settleSoon(): void {
    if (this.#told || this.#exit !== undefined) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#settle(), EXIT_GRACE_MS);
  }

  /**
   * Ends the pending reads and writes with the outcome. Without an exit, the child has only closed one of its pipes.
   */
  #settle(): void {
    if (this.#told || this.#aborted) return;
    const exit = this.#exit;
    const clean = exit === undefined ? this.#failing === undefined : exit.code === 0 && this.#outputEnded;
    if (clean && exit === undefined) {
      this.#receiver.end();
      this.#endIfOver();
      return;
    }
    this.#told = true;
    if (clean) this.#receiver.end();
    const failure = this.#failure();
    this.#writer.fail(failure);
    if (!clean) this.#receiver.fail(failure);
    this.#letGo();
    this.#kill();
  }

  #failure(): GodwitError {
    const exit = this.#exit;
    const how =
      exit === undefined
        ? `its pipe broke: ${this.#failing?.message}`
        : exit.signal === null
          ? `it ended with exit code ${exit.code}`
          : `it was ended by ${exit.signal}`;
    const words = this.#lastWords.text();
    const said = words === '' ? 'and said nothing on standard error' : `and said: ${words}`;
    const message = `the link through ${this.peer} was lost: ${how}, ${said}`;
    return new GodwitError('GODWIT_LINK_LOST', message, this.#failing && { cause: this.#failing });
  }

  /** Once both directions have ended, gives the child some time to exit; the child keeps no process alive meanwhile. */
  #endIfOver(): void {
    if (!this.#outputEnded || !this.#writer.ended || this.#exit !== undefined || this.#ended) return;
    this.#ended = true;
    this.#lastWords.unref();
    this.#child.unref();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#kill(), this.#lingerMs);
    this.#timer.unref();
  }

  #letGo(): void {
    this.#output.destroy();
    this.#child.stdin?.destroy();
    this.#lastWords.close();
  }

  #kill(): void {
    if (this.#exit !== undefined) return;
    clearTimeout(this.#timer);
    this.#signal('SIGTERM');
    this.#timer = setTimeout(() => this.#signal('SIGKILL'), KILL_MS);
  }

  #signal(signal: NodeJS.Signals): void {
    const { pid } = this.#child;
    if (this.#exit !== undefined || pid === undefined) return;
    try {
      if (this.#group) process.kill(-pid, signal);
      else this.#child.kill(signal);
    } catch {
      // The child has exited meanwhile.
    }
  }
}
