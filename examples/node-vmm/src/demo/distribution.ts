import type { MigrationSummary } from '@godwit/core';

/** Percentiles by nearest rank, so that each is one of the values. Milliseconds. */
export interface Spread {
  readonly median: number;
  /** 95 of 100 values are at most this. */
  readonly p95: number;
  readonly max: number;
}

/** Events that announce why the downtime exceeds its limit. */
export const ANNOUNCEMENTS = ['went-back', 'not-prepared', 'downtime-exceeded'] as const;

export type Announcement = (typeof ANNOUNCEMENTS)[number];

/** The downtimes of all migrations of a run. */
export interface Distribution {
  readonly loadMs: Spread;
  readonly downtimeMs: Spread;
  readonly downtimeLimitMs: number;
  /**
   * Number of migrations whose downtime exceeded the limit, and the number of those among them that had no
   * announcement.
   */
  readonly overLimit: number;
  readonly unannounced: number;
  /** Number of events of each kind. */
  readonly events: Readonly<Record<Announcement, number>>;
}

/** The percentiles of `values`; zeros when there are none. */
export function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const rank = (part: number) => sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)] ?? 0;
  return { median: rank(0.5), p95: rank(0.95), max: rank(1) };
}

/** Collects a `Distribution` from the events of a run. */
export class DistributionCount {
  readonly #downtimeLimitMs: number;
  readonly #loadMs: number[] = [];
  readonly #downtimeMs: number[] = [];
  readonly #events: Record<Announcement, number> = { 'went-back': 0, 'not-prepared': 0, 'downtime-exceeded': 0 };
  /** Whether the present migration has had an announcement. */
  #announced = false;
  #overLimit = 0;
  #unannounced = 0;

  constructor(downtimeLimitMs: number) {
    this.#downtimeLimitMs = downtimeLimitMs;
  }

  /** @param event the name of any event of the run */
  see(event: string): void {
    const announcement = ANNOUNCEMENTS.find((name) => name === event);
    if (announcement === undefined) return;
    this.#events[announcement]++;
    this.#announced = true;
  }

  /** Adds the present migration, which has completed. */
  migrated({ downtimeMs, downtime }: Pick<MigrationSummary, 'downtimeMs' | 'downtime'>): void {
    this.#downtimeMs.push(downtimeMs);
    this.#loadMs.push(downtime.loadMs.actualMs);
    if (downtimeMs > this.#downtimeLimitMs) {
      this.#overLimit++;
      if (!this.#announced) this.#unannounced++;
    }
    this.#announced = false;
  }

  result(): Distribution {
    return {
      loadMs: spreadOf(this.#loadMs),
      downtimeMs: spreadOf(this.#downtimeMs),
      downtimeLimitMs: this.#downtimeLimitMs,
      overLimit: this.#overLimit,
      unannounced: this.#unannounced,
      events: { ...this.#events },
    };
  }
}
