import { GodwitError } from '../errors.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { DirtyTracker } from './dirty-tracker.js';
import { WriteMarks } from './write-marks.js';

/**
 * Reports the writes that are marked: a device model calls `mark` once it has written guest memory, in this thread or, through
 * `marks`, in another one. `mark` counts only between `start` and `stop`; outside a migration it costs one comparison.
 *
 * @example
 * const tracker = new SoftwareTracker(memory);
 * memory.blocks[0].view(offset, bytes.length).set(bytes);
 * tracker.mark(0, offset, bytes.length); // after the write
 */
export class SoftwareTracker implements DirtyTracker {
  readonly name: string;
  readonly blindSpots = 'every write that is not marked';
  readonly #memory: GuestMemory;
  #marks: WriteMarks | undefined;
  #running = false;

  constructor(memory: GuestMemory, name = 'software') {
    this.#memory = memory;
    this.name = name;
  }

  /** The marks, whose `storage` is passed to device models in other threads. */
  get marks(): WriteMarks {
    this.#marks ??= new WriteMarks(this.#memory);
    return this.#marks;
  }

  /** Marks the pages of `length` bytes at `offset` of a block as written. */
  mark(blockIndex: number, offset: number, length: number): void {
    if (this.#running) this.marks.mark(blockIndex, offset, length);
  }

  async start(): Promise<void> {
    this.marks.begin();
    this.#running = true;
  }

  async harvest(into: DirtyBitmaps): Promise<void> {
    if (!this.#running) {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        `the dirty tracker "${this.name}" was not started: nothing was tracked`,
      );
    }
    this.marks.harvest(into);
  }

  async stop(): Promise<void> {
    this.#running = false;
    this.#marks?.end();
  }
}
