import { describe, expect, test } from '@jest/globals';
import { caseResult, entrantResult, isSound, spreadOf, type Verdict } from '../qemu/result.js';
import { playCase } from '../qemu/rounds.js';
import type { Case, Sample } from '../qemu/sample.js';
import { markdown, withVerdict } from '../qemu/table.js';

const sample = (totalMs: number, more: Partial<Sample> = {}): Sample => ({ figures: { totalMs }, ...more });

/** A case whose entrants return the listed samples, one after the other. */
function play(entrants: Readonly<Record<string, readonly (Sample | Error)[]>>) {
  const order: string[] = [];
  const one: Case = {
    name: 'bulk',
    title: 'some work',
    columns: ['totalMs', 'downtimeMs'],
    mayNeverEnd: true,
    entrants: Object.entries(entrants).map(([name, runs]) => {
      const left = [...runs];
      return {
        name,
        async measure() {
          order.push(name);
          const run = left.shift();
          if (run === undefined || run instanceof Error) throw run ?? new Error('asked too often');
          return run;
        },
      };
    }),
  };
  return { one, order };
}

function verdict(...results: ReturnType<typeof entrantResult>[]): Verdict {
  const one = play({}).one;
  return {
    benchmark: 'qemu',
    date: '2026-11-28',
    machine: '2 cores',
    versions: ['QEMU 11.1.3', 'Godwit abc1234'],
    rounds: 3,
    cases: [caseResult(one, results)],
  };
}

test('a spread is the median with the least and the most', () => {
  expect(spreadOf([5, 1, 9])).toEqual({ median: 5, least: 1, most: 9 });
  expect(spreadOf([4, 1])).toEqual({ median: 2.5, least: 1, most: 4 });
  expect(spreadOf([Number.NaN, 4, 1, Number.NaN])).toEqual({ median: 2.5, least: 1, most: 4, never: 2 });
});

describe('the rounds', () => {
  test('go forwards and backwards in turns, and continue after a run that fails', async () => {
    const { one, order } = play({ a: [sample(1), new Error('no'), sample(3)], b: [sample(7), sample(8), sample(9)] });
    const told: string[] = [];
    const result = await playCase(one, 3, (text) => told.push(text));
    expect(order).toEqual(['a', 'b', 'b', 'a', 'a', 'b']);
    expect(result.entrants.map(({ name, figures, problems }) => ({ name, figures, problems }))).toEqual([
      { name: 'a', figures: { totalMs: { median: 2, least: 1, most: 3 } }, problems: ['no'] },
      { name: 'b', figures: { totalMs: { median: 8, least: 7, most: 9 } }, problems: [] },
    ]);
    expect(told).toHaveLength(6);
    expect(told[3]).toBe('bulk 2/3: a: failed: no');
  });

  test('a figure that some runs lack is summarized over the runs that have it', () => {
    const { figures } = entrantResult('a', [sample(1), { figures: { totalMs: 3, predictedDowntimeMs: 300 } }], []);
    expect(figures).toEqual({
      totalMs: { median: 2, least: 1, most: 3 },
      predictedDowntimeMs: { median: 300, least: 300, most: 300 },
    });
  });
});

describe('the tables', () => {
  test('show medians, how many runs ended by themselves, and no column without a value', () => {
    const ended = [sample(1200, { endedByItself: true }), sample(1300, { endedByItself: false })];
    expect(
      markdown(verdict(entrantResult('QEMU', ended, ['it broke\nfor a reason']), entrantResult('Godwit', [], []))),
    ).toBe(
      [
        '2026-11-28, QEMU 11.1.3, Godwit abc1234; 2 cores. Medians of 3 (least to most), each run in processes of its own.',
        '',
        '**bulk**: some work',
        '',
        '|  | total, ms | ended by itself |',
        '| --- | ---: | ---: |',
        '| QEMU | 1,250 (1,200 to 1,300) | 1 of 3 |',
        '| Godwit |  | 0 of 0 |',
        '',
        'QEMU: failed: it broke',
      ].join('\n'),
    );
  });

  test('say in how many runs what is measured never came', () => {
    const runs = [Number.NaN, 1200, 1300];
    const some = entrantResult(
      'some',
      runs.map((value) => sample(value)),
      [],
    );
    const none = entrantResult('none', [sample(Number.NaN)], []);
    const rows = markdown(verdict(some, none)).split('\n');
    expect(rows).toContain('| some | 1,250 (1,200 to 1,300), never in 1 | 0 of 3 |');
    expect(rows).toContain('| none | never in 1 | 0 of 1 |');
  });

  test('replace the text between the marks of a page, and nothing else', () => {
    const mark = '<!-- judge: written by `npm run bench -- qemu --readme` -->';
    const page = `before\n\n${mark}\n\nold\n\n<!-- /judge -->\n\nafter\n`;
    const one = verdict(entrantResult('QEMU', [sample(1)], []));
    const written = withVerdict(page, one);
    expect(written).toBe(`before\n\n${mark}\n\n${markdown(one)}\n\n<!-- /judge -->\n\nafter\n`);
    expect(withVerdict(written, one)).toBe(written);
    expect(() => withVerdict('a page without a place', one)).toThrow('no place');
  });
});

test('a verdict is sound when no run has failed and every memory was right', () => {
  expect(isSound(verdict(entrantResult('QEMU', [sample(1), sample(2)], [])))).toBe(true);
  expect(isSound(verdict(entrantResult('QEMU', [sample(1)], ['failed'])))).toBe(false);
  expect(isSound(verdict(entrantResult('QEMU', [sample(1, { wrong: '1 of 2 pages wrong' })], [])))).toBe(false);
});
