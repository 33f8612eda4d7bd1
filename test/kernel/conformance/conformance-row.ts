import { errnoName } from '@godwit/linux/unstable';

/** One call and what Linux 6.12 answers: the result, or the name of the error. */
export interface ConformanceRow<Bench> {
  readonly when: string;
  /** The place in the kernel's source that decides the answer (Debian's 6.12.117). */
  readonly line: string;
  /** Makes the call on a fresh bench; returns 0 or more, or minus errno. */
  readonly call: (bench: Bench) => number;
  readonly result: number | string;
}

/** A call's result as the tables write it. */
export function errnoOrResult(result: number): number | string {
  return result < 0 ? errnoName(-result) : result;
}

/** Rows as `test.each` takes them; the name is `%s: %s`. */
export function named<Bench>(
  rows: readonly ConformanceRow<Bench>[],
): [when: string, result: number | string, row: ConformanceRow<Bench>][] {
  return rows.map((row) => [row.when, row.result, row]);
}
