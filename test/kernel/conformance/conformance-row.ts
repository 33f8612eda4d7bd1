import { errnoName } from '@godwit/linux/unstable';

/**
 * An answer of the kernels that the tables were put to, Linux 6.12 and 7.3: one that both give, or one for each series from which on
 * it is given.
 */
export type Answer<Value> = Value | { readonly from: Readonly<Record<string, Value>> };

/** The series that the tables describe, and that the model of the kernel in `@godwit/vfio/testing` is made after. */
export const DESCRIBED = '6.12';

/** One call and what Linux answers: the result, or the name of the error. */
export interface ConformanceRow<Bench> {
  readonly when: string;
  /** The place in the kernel's source that decides the answer (Debian's 6.12.117). */
  readonly line: string;
  /** Makes the call on a fresh bench; returns 0 or more, or minus errno. */
  readonly call: (bench: Bench) => number;
  readonly result: Answer<number | string>;
}

/** A call's result as the tables write it. */
export function errnoOrResult(result: number): number | string {
  return result < 0 ? errnoName(-result) : result;
}

/** What a kernel answers: that of the newest series that is not newer than it. `kernel` is a release or series: `7.3.4+deb13-amd64`. */
export function answerOf<Value>(answer: Answer<Value>, kernel: string): Value {
  if (!isBySeries(answer)) return answer;
  const given = Object.entries(answer.from).filter(([series]) => isFrom(series, kernel));
  const newest = given.sort(([a], [b]) => (isFrom(a, b) ? -1 : 1)).at(-1);
  if (newest === undefined) throw new Error(`a row has no answer of Linux ${kernel}`);
  return newest[1];
}

/** Whether an answer is one for each series. */
export function isBySeries<Value>(answer: Answer<Value>): answer is { readonly from: Readonly<Record<string, Value>> } {
  return typeof answer === 'object' && answer !== null && 'from' in answer;
}

/** Whether a kernel is of this series or newer. */
function isFrom(series: string, kernel: string): boolean {
  const [wanted, there] = [series, kernel].map((text) => text.split(/[.+-]/).slice(0, 2).map(Number)) as [
    number[],
    number[],
  ];
  const major = (there[0] as number) - (wanted[0] as number);
  return major > 0 || (major === 0 && (there[1] as number) >= (wanted[1] as number));
}

/** Rows as `test.each` takes them, with the answers of a kernel; the name is `%s: %s`. */
export function named<Bench>(
  rows: readonly ConformanceRow<Bench>[],
  kernel: string,
): [when: string, result: number | string, row: ConformanceRow<Bench>][] {
  return rows.map((row) => [row.when, answerOf(row.result, kernel), row]);
}
