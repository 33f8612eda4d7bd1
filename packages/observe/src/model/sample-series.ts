import type { Known, Samples } from './migration-model.js';

/** One moment of all curves. */
export type Sample = { readonly [Column in keyof Samples]: Samples[Column][number] };

type Columns = { [Column in keyof Samples]: Known[] };

/** Samples that are closer than this to each other are averaged, in milliseconds. */
const FIRST_STEP_MS = 50;

/** Curves of which the average over a time says what was there; of the others the last value does. */
const AVERAGED: ReadonlySet<keyof Samples> = new Set<keyof Samples>(['wire', 'dirty']);

/**
 * Curves with a bounded number of points. When they are full, neighbours are merged in pairs, and points are twice as far from each other
 * from then on: the whole migration is always there, as fine as there is room for.
 */
export class SampleSeries {
  readonly #most: number;
  #stepMs = FIRST_STEP_MS;
  #columns: Columns = noColumns();
  /** The first sample of the last point, and how many known values each of its averages is of. */
  #lastFromMs = 0;
  #inLast: Partial<Record<keyof Samples, number>> = {};
  /** Changes when points other than the last one have changed. */
  revision = 0;

  constructor(most: number) {
    this.#most = most;
  }

  get length(): number {
    return this.#columns.atMs.length;
  }

  get columns(): Samples {
    // The times are numbers: no sample is without one.
    return this.#columns as unknown as Samples;
  }

  /** The points from the one with this index on. */
  from(index: number): Samples {
    return mapped((column) => this.#columns[column].slice(index)) as unknown as Samples;
  }

  /** Adds a sample; one that is older than the last is ignored. */
  add(sample: Sample): void {
    const at = this.length - 1;
    const lastMs = at < 0 ? Number.NEGATIVE_INFINITY : (this.#columns.atMs[at] as number);
    if (sample.atMs < lastMs) return;
    // The first point stays what it is: the curves begin where the migration does.
    if (at > 0 && sample.atMs - this.#lastFromMs < this.#stepMs) {
      this.#intoLast(at, sample);
      return;
    }
    this.#lastFromMs = sample.atMs;
    for (const column of COLUMNS) {
      this.#columns[column].push(sample[column]);
      this.#inLast[column] = sample[column] === null ? 0 : 1;
    }
    if (this.length > this.#most) this.#coarser();
  }

  #intoLast(at: number, sample: Sample): void {
    for (const column of COLUMNS) {
      const values = this.#columns[column];
      const before = this.#inLast[column] ?? 0;
      values[at] = AVERAGED.has(column) ? mean(values[at] ?? null, before, sample[column], 1) : sample[column];
      if (sample[column] !== null) this.#inLast[column] = before + 1;
    }
  }

  #coarser(): void {
    this.#stepMs *= 2;
    const old = this.#columns;
    this.#columns = mapped((column) => {
      const merged: Known[] = old[column].slice(0, 1);
      for (let i = 1; i < old[column].length; i += 2) {
        const one = old[column][i] ?? null;
        const two = i + 1 < old[column].length ? (old[column][i + 1] ?? null) : one;
        merged.push(AVERAGED.has(column) ? mean(one, 1, two, 1) : two);
      }
      return merged;
    });
    for (const column of COLUMNS) this.#inLast[column] = this.#columns[column].at(-1) === null ? 0 : 1;
    this.revision++;
  }
}

const COLUMNS = Object.keys(noColumns()) as (keyof Samples)[];

function noColumns(): Columns {
  return { atMs: [], wire: [], link: [], limit: [], dirty: [], downtime: [], throttle: [] };
}

function mapped(values: (column: keyof Samples) => Known[]): Columns {
  return Object.fromEntries(COLUMNS.map((column) => [column, values(column)])) as Columns;
}

function mean(one: Known, weight: number, other: Known, otherWeight: number): Known {
  if (one === null) return other;
  if (other === null) return one;
  return (one * weight + other * otherWeight) / (weight + otherWeight);
}
