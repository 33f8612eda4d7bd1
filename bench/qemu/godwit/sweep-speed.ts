import { setTimeout as sleep } from 'node:timers/promises';
import { DEFAULT_SWEEP, type GuestRam, PAGE_SIZE, type Sweep } from '@godwit/example-node-vmm/guest';

/** The shortest time over which a speed is measured. Milliseconds. */
const WINDOW_MS = 100;
/** The time between two readings of the sweep's place. Milliseconds. */
const EVERY_MS = 10;
/** How long the guest may take to reach a speed. Milliseconds. */
const LONGEST_MS = 10_000;

/**
 * Measures how fast a guest sweeps, by the first bytes of its pages. The pages must be present: reading a missing page would fetch it from
 * the source.
 */
export class SweepSpeed {
  readonly #ram: GuestRam;
  readonly #first: number;
  readonly #pages: number;
  #place: number;

  constructor(ram: GuestRam, sweep: Sweep = {}) {
    const { first, end } = { ...DEFAULT_SWEEP, ...sweep };
    this.#ram = ram;
    this.#first = first;
    this.#pages = (end - first) / PAGE_SIZE;
    this.#place = this.#read();
  }

  /** Pages per millisecond, over a tenth of a second. A pass takes longer than the time between two readings. */
  async measure(): Promise<number> {
    const started = performance.now();
    this.#place = this.#read();
    let pages = 0;
    let now = started;
    while (now - started < WINDOW_MS) {
      await sleep(EVERY_MS);
      now = performance.now();
      pages += this.#forward();
    }
    return pages / (now - started);
  }

  /** Resolves with the start of the first tenth of a second in which the guest is as fast as `speed`: milliseconds since 1970. */
  async reaches(speed: number): Promise<number> {
    for (const end = performance.now() + LONGEST_MS; performance.now() < end; ) {
      const start = performance.timeOrigin + performance.now();
      if ((await this.measure()) >= speed) return start;
    }
    return Number.NaN;
  }

  #forward(): number {
    const place = this.#read();
    const total = 256 * this.#pages;
    const pages = (place - this.#place + total) % total;
    this.#place = place;
    return pages;
  }

  /**
   * The number of pages that were written, modulo 256 passes: the pages before the front have one value, those after it have one
   * less.
   */
  #read(): number {
    const value = this.#byte(0);
    let written = 1;
    let end = this.#pages;
    while (written < end) {
      const middle = (written + end) >>> 1;
      if (this.#byte(middle) === value) written = middle + 1;
      else end = middle;
    }
    return value * this.#pages + written;
  }

  #byte(page: number): number {
    return this.#ram.view(this.#first + page * PAGE_SIZE, 1)[0] as number;
  }
}
