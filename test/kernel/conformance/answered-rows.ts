import { appendFileSync } from 'node:fs';
import { inspect } from 'node:util';
import { type Answer, answerOf, DESCRIBED, errnoOrResult } from './conformance-row.js';

/** In the environment of the suites: the file to which each row that was put to the kernel is appended, as a line of JSON. */
export const ROWS_VARIABLE = 'GODWIT_TEST_ROWS';

/** A row of the conformance tables and what a kernel has answered. */
export interface AnsweredRow {
  /** The call: `VFIO_IOMMU_MAP_DMA`. */
  readonly about: string;
  readonly when: string;
  /** What the tables say of Linux 6.12, and of this kernel. */
  readonly described: number | string;
  readonly expected: number | string;
  readonly answer: number | string;
}

interface Row {
  readonly when: string;
  readonly result: Answer<number | string>;
}

/** The answer to a row's call, which returned 0 or more, or minus errno. Notes it for `rowTable`. */
export function answered(about: string, { when, result }: Row, kernel: string, returned: number): number | string {
  const answer = errnoOrResult(returned);
  note({ about, when, described: answerOf(result, DESCRIBED), expected: answerOf(result, kernel), answer });
  return answer;
}

/** The same for an answer that is more than a number, and that all kernels give. */
export function answeredAlike(about: string, when: string, expected: unknown, answer: unknown): unknown {
  const text = (value: unknown): string =>
    typeof value === 'string' ? value : inspect(value, { breakLength: Infinity });
  note({ about, when, described: text(expected), expected: text(expected), answer: text(answer) });
  return answer;
}

function note(row: AnsweredRow): void {
  const path = process.env[ROWS_VARIABLE];
  if (path !== undefined) appendFileSync(path, `${JSON.stringify(row)}\n`);
}

/**
 * The rows that a kernel was asked, one a line: the call, when, the answer of Linux 6.12, that of this kernel, and whether the two, or this
 * kernel and the tables, differ.
 *
 * @param lines rows as `answered` has appended them
 */
export function rowTable(lines: string): readonly string[] {
  const rows = lines.split('\n').flatMap((line) => (line === '' ? [] : [JSON.parse(line) as AnsweredRow]));
  const cells = rows.map(({ about, when, described, expected, answer }) => {
    const note = answer !== expected ? `WRONG: the tables say ${expected}` : answer !== described ? 'differs' : '';
    return [about, when, String(described), String(answer), note];
  });
  const table = [['call', 'when', DESCRIBED, 'here', ''], ...cells];
  const widths = [0, 1, 2, 3].map((column) => Math.max(...table.map((line) => (line[column] as string).length)));
  const differ = rows.filter(({ described, answer }) => answer !== described).length;
  const wrong = rows.filter(({ expected, answer }) => answer !== expected).length;
  return [
    ...table.map((line) =>
      line
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    ),
    `${rows.length} rows: ${differ} answered differently from Linux ${DESCRIBED}, ${wrong} differently from the tables`,
  ];
}
