import type { Clock } from '../clock.js';
import { DirtyBitmap } from '../memory/dirty-bitmap.js';
import type { Random } from './random.js';
import type { Writer } from './workload/writer.js';

/** A page that the guest touches. */
export interface Touch {
  readonly block: number;
  readonly page: number;
}

/**
 * The fewest milliseconds of the guest's time that are computed at once; the slice is longer where there are more pages, each of which
 * takes time to compute.
 */
const SLICE_MS = 1;
const PAGES_PER_SLICE_MS = 2 ** 21;

export interface TouchesParts {
  readonly clock: Clock;
  readonly writer: Writer;
  readonly pageCount: number;
  /** How long the guest has run at the source, by its own clock. Milliseconds. */
  readonly ranMs: number;
  /** The random numbers for the order of pages that are written at random; `undefined` for a guest that writes them in ascending order. */
  readonly random: Random | undefined;
}

/**
 * The pages that a guest touches once it runs at the destination: the pages that its workload goes on to write. The guest's clock stands
 * still while the guest waits for a page.
 */
export class Touches {
  readonly #parts: TouchesParts;
  readonly #marks: DirtyBitmap;
  readonly #sliceMs: number;
  #ranMs: number;

  constructor(parts: TouchesParts) {
    this.#parts = parts;
    this.#marks = new DirtyBitmap(parts.pageCount);
    this.#sliceMs = Math.max(SLICE_MS, parts.pageCount / PAGES_PER_SLICE_MS);
    this.#ranMs = parts.ranMs;
  }

  /** Resolves with the pages of the next slice of time, once the slice has passed. Rejects when `signal` aborts. */
  async next(signal: AbortSignal): Promise<readonly Touch[]> {
    const { clock, writer, random } = this.#parts;
    await clock.sleep(this.#sliceMs, signal);
    const marks = this.#marks;
    marks.clearAll();
    writer.write(this.#ranMs, this.#ranMs + this.#sliceMs, marks);
    this.#ranMs += this.#sliceMs;
    const pages: Touch[] = [];
    for (let page = marks.nextDirty(0); page !== -1; page = marks.nextDirty(page + 1)) pages.push({ block: 0, page });
    if (random !== undefined) shuffle(pages, random);
    return pages;
  }
}

/** R. Durstenfeld, Algorithm 235: Random permutation, 1964. */
function shuffle(pages: Touch[], random: Random): void {
  for (let i = pages.length - 1; i > 0; i--) {
    const j = Math.floor(random.fraction() * (i + 1));
    const swapped = pages[i] as Touch;
    pages[i] = pages[j] as Touch;
    pages[j] = swapped;
  }
}
