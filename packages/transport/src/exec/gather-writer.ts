import type { Writable } from 'node:stream';
import { GodwitError } from '@godwit/core';
import { resumeInFairTurn } from '../stream/event-loop-turn.js';

/** The writing half of a stream over a Node `Writable`: chunks go to the kernel in one `writev`, by reference. */
export class GatherWriter {
  readonly #target: Writable;
  readonly #peer: string;
  readonly #writing = new Set<(error: GodwitError) => void>();
  #ending: Promise<void> | undefined;
  #ended = false;
  #failure: GodwitError | undefined;

  /** `onError` is called with the target's errors; it decides when to call `fail`, and with which error. */
  constructor(target: Writable, peer: string, onError: (error: Error) => void) {
    this.#target = target;
    this.#peer = peer;
    target.on('error', onError);
  }

  /** True when everything was written and the direction was ended, or when nothing can be written any more. */
  get ended(): boolean {
    return this.#ended || this.#failure !== undefined;
  }

  write(chunks: readonly Uint8Array[]): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (this.#ending !== undefined) {
      return Promise.reject(
        new GodwitError('GODWIT_INVALID_STATE', `the stream to ${this.#peer} is closed for writing`),
      );
    }
    const filled = chunks.filter((chunk) => chunk.length > 0);
    if (filled.length === 0) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#writing.add(reject);
      this.#target.cork();
      for (const [index, chunk] of filled.entries()) {
        if (index < filled.length - 1) this.#target.write(chunk);
        else {
          this.#target.write(chunk, (error) => {
            if (error) return;
            this.#writing.delete(reject);
            resumeInFairTurn(resolve);
          });
        }
      }
      this.#target.uncork();
    });
  }

  /** Ends the direction after everything that was written. Never rejects. */
  end(): Promise<void> {
    this.#ending ??= new Promise((resolve) => {
      const over = (): void => {
        this.#ended = true;
        resolve();
      };
      if (this.#failure !== undefined || this.#target.destroyed) over();
      else {
        this.#target.once('close', over);
        this.#target.end(over);
      }
    });
    return this.#ending;
  }

  /**
   * Rejects the pending writes and all later ones. The target must be destroyed first, since this gives the borrowed
   * chunks back.
   */
  fail(error: GodwitError): void {
    this.#failure = error;
    for (const reject of this.#writing) reject(error);
    this.#writing.clear();
  }
}
