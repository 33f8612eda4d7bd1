/** One line of a benchmark: a figure, and its target. */
export interface Row {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  /** The target: at least, or at most, this value. It is printed and not enforced, since machines differ. */
  readonly atLeast?: number;
  readonly atMost?: number;
}

export interface Report {
  readonly benchmark: string;
  readonly rows: readonly Row[];
  readonly notes: readonly string[];
}

export function printReport(report: Report, json: boolean): void {
  if (json) {
    process.stdout.write(`${JSON.stringify(report)}\n`);
    return;
  }
  const width = Math.max(...report.rows.map((row) => row.name.length));
  process.stdout.write(`${report.benchmark}\n`);
  for (const row of report.rows) process.stdout.write(`  ${row.name.padEnd(width)}  ${figure(row)}\n`);
  for (const note of report.notes) process.stdout.write(`  ${note}\n`);
}

function figure({ value, unit, atLeast, atMost }: Row): string {
  const target = atLeast !== undefined ? `at least ${atLeast}` : atMost !== undefined ? `at most ${atMost}` : undefined;
  const met = (atLeast === undefined || value >= atLeast) && (atMost === undefined || value <= atMost);
  const text = `${value.toFixed(value < 10 ? 2 : 0)} ${unit}`.trimEnd();
  return target === undefined ? text : `${text}  (${target}: ${met ? 'met' : 'missed'})`;
}

/** The middle value; of an even number of values, the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const upper = sorted[Math.floor(sorted.length / 2)] as number;
  const lower = sorted[Math.ceil(sorted.length / 2) - 1] as number;
  return (lower + upper) / 2;
}
