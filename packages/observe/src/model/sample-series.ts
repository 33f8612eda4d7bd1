import type { Known, Samples } from './migration-model.js';

/** The values of all curves at one moment. */
export type Sample = { readonly [Column in keyof Samples]: Samples[Column][number] };

type Columns = { [Column in keyof Samples]: Known[] };

/** Samples that are closer than this to each other are averaged, in milliseconds. */
const FIRST_STEP_MS = 50;

/** Curves whose merged points have the average value; those of the other curves have the last value. */
const AVERAGED: ReadonlySet<keyof Samples> = new Set<keyof Samples>(['wire', 'dirty']);

/**
 * Curves with a bounded number of points. When they are full, neighbouring points are merged in pairs, and new points are twice as far
 * apart from then on. So the curves always show the whole migration, as finely as the bound allows.
 */
export class SampleSeries {
  readonly #most: number;
  #stepMs = FIRST_STEP_MS;
  #columns: Columns = noColumns();
  /** The time of the last point's first sample, and the number of known values in each of the point's averages. */
  #lastFromMs = 0;
  #inLast: Partial<Record<keyof Samples, number>> = {};
  /** Changes when any point except the last has changed. */
  revision = 0;

  constructor(most: number) {
    this.#most = most;
  }

  get length(): number {
    return this.#columns.atMs.length;
  }

  get columns(): Samples {
    // `atMs` has numbers only, since every sample has a time.
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
    // The first point is never merged: the curves begin where the migration begins.
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
