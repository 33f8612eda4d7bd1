import { type DirtyBitmaps, type DirtyTracker, type GuestMemory, SoftwareTracker } from '@godwit/core';
import { ManualTracker, type WriteLog } from '@godwit/core/testing';

/** A dirty tracker that reports calls in a wrong order, and that can hang or fail. */
export class WatchedTracker implements DirtyTracker, WriteLog {
  readonly name: string;
  readonly #inner: SoftwareTracker | ManualTracker;
  readonly #call: (call: 'harvest' | 'stop') => Promise<void>;
  readonly #fault: (kind: string, message: string) => void;
  #started = false;
  readonly rearm?: (blockIndex: number, firstPage: number, pageCount: number) => void;

  constructor(
    kind: 'software' | 'manual',
    memory: GuestMemory,
    call: (call: 'harvest' | 'stop') => Promise<void>,
    fault: (kind: string, message: string) => void,
  ) {
    this.name = kind;
    this.#call = call;
    this.#fault = fault;
    if (kind === 'software') {
      this.#inner = new SoftwareTracker(memory);
    } else {
      const manual = new ManualTracker(memory);
      this.#inner = manual;
      this.rearm = (blockIndex, firstPage, pageCount) => manual.rearm(blockIndex, firstPage, pageCount);
    }
  }

  mark(block: number, offset: number, length: number): void {
    this.#inner.mark(block, offset, length);
  }

  async start(): Promise<void> {
    if (this.#started) this.#fault('tracker shared', `the tracker "${this.name}" is started though it runs`);
    this.#started = true;
    await this.#inner.start();
  }

  async harvest(into: DirtyBitmaps): Promise<void> {
    await this.#call('harvest');
    await this.#inner.harvest(into);
  }

  async stop(): Promise<void> {
    this.#started = false;
    await this.#inner.stop();
    await this.#call('stop');
  }
}
