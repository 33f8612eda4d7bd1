import type { MigrationSummary } from '@godwit/core';

/** Nearest rank: values that occurred. Milliseconds. */
export interface Spread {
  readonly median: number;
  /** 95 of 100 values are at most this. */
  readonly p95: number;
  readonly max: number;
}

/** Events that tell a person why a guest was down for longer than it was to be. */
export const ANNOUNCEMENTS = ['went-back', 'not-prepared', 'downtime-exceeded'] as const;

export type Announcement = (typeof ANNOUNCEMENTS)[number];

/** How long the guest stood still in all migrations of a run. */
export interface Distribution {
  readonly loadMs: Spread;
  readonly downtimeMs: Spread;
  readonly downtimeLimitMs: number;
  /** Migrations whose downtime exceeded the limit; and those of them of which no event had told. */
  readonly overLimit: number;
  readonly unannounced: number;
  /** How often each kind of event came. */
  readonly events: Readonly<Record<Announcement, number>>;
}

/** Zeros for no values. */
export function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const rank = (part: number) => sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)] ?? 0;
  return { median: rank(0.5), p95: rank(0.95), max: rank(1) };
}

/** Collects what `Distribution` says, from the events of a run as they come. */
export class DistributionCount {
  readonly #downtimeLimitMs: number;
  readonly #loadMs: number[] = [];
  readonly #downtimeMs: number[] = [];
  readonly #events: Record<Announcement, number> = { 'went-back': 0, 'not-prepared': 0, 'downtime-exceeded': 0 };
  /** Of the migration under way. */
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

  /** The migration under way has gone through. */
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
