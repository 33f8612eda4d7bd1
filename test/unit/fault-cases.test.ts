import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { allSeries, type CaseSeries, SAMPLED_OFFSETS, SAMPLED_STEP, UNCUT, WHOLE_NAMES } from '../faults/all-cases.js';
import type { CaseResult } from '../faults/case-messages.js';
import { CaseQueue, type HandedOut, MISSES } from '../faults/case-queue.js';
import { caseName, type FaultCase, type FaultKind, parseCase } from '../faults/fault-case.js';
import { parseDeath } from '../faults/run-death.js';
import { seeded } from '../faults/seeded.js';

const ROOT = join(import.meta.dirname, '..', '..', '..');
const BYTES = {
  ...{ out: 1_000_000, in: 580, backOut: 2_000_000, backIn: 700 },
  postcopy: { from: { out: 5000, in: 300 }, control: { out: 90_000, in: 900 }, urgent: { out: 70_000, in: 800 } },
};
/** All kinds of faults: the compiler reports a missing one. */
const KINDS: Readonly<Record<FaultKind, true>> = {
  cut: true,
  'half-close': true,
  stall: true,
  delay: true,
  trickle: true,
  corrupt: true,
  duplicate: true,
  truncate: true,
};

const full = allSeries({ offsets: 500, bytes: BYTES, random: seeded(1) });
const sampled = (seed: number) =>
  allSeries({ offsets: SAMPLED_OFFSETS, bytes: BYTES, random: seeded(seed), step: SAMPLED_STEP });
const sample = sampled(0xdeadbeef);
const isBytes = ({ name }: CaseSeries): boolean => name.startsWith('cut at ');

/** The names of the first cases; the default is more than any migration of the suite has frames. */
function casesOf(series: CaseSeries, most = 200): string[] {
  return Array.from({ length: most }, (_, n) => series.at(n)).filter((name) => name !== undefined);
}

describe("CI's sample of the fault cases", () => {
  test('has every series of the whole list, and of each as many of its cases as it says', () => {
    const whole = full.filter((one) => !isBytes(one));
    const part = sample.filter((one) => !isBytes(one));
    expect(part.map(({ name, untilNotStruck }) => [name, untilNotStruck])).toEqual(
      whole.map(({ name, untilNotStruck }) => [name, untilNotStruck]),
    );
    for (const [n, series] of part.entries()) {
      if (!series.untilNotStruck) continue;
      const step = SAMPLED_STEP[series.name.includes('by post-copy') ? 'postcopy' : 'precopy'];
      const all = casesOf(whole[n] as CaseSeries, 200);
      const first = all.indexOf(series.at(0) ?? '');
      expect(first).toBeGreaterThanOrEqual(0);
      expect(first).toBeLessThan(step);
      expect(casesOf(series, 20)).toEqual(Array.from({ length: 20 }, (_, k) => all[first + k * step]));
    }
  });

  test('leaves no case out of all samples', () => {
    const plans = Array.from({ length: 80 }, (_, seed) => sampled(seed * 7919));
    for (const [n, series] of full.entries()) {
      if (isBytes(series)) continue;
      const taken = new Set(plans.flatMap((plan) => casesOf(plan[n] as CaseSeries, 60)));
      expect(casesOf(series, 60).filter((name) => !taken.has(name))).toEqual([]);
    }
  });

  test('has as many series of byte offsets, each offset in its own stretch', () => {
    const bytes = sample.filter(isBytes);
    expect([full.filter(isBytes).length, bytes.length]).toEqual([8, 8]);
    const ways: string[] = [];
    for (const series of bytes.slice(0, 4)) {
      const cases = casesOf(series).map(parseCase);
      expect(cases).toHaveLength(SAMPLED_OFFSETS);
      const { direction, backs } = cases[0] as FaultCase;
      ways.push(`${direction} ${backs}`);
      const total = backs === 2 ? BYTES[direction === 'out' ? 'backOut' : 'backIn'] : BYTES[direction];
      cases.forEach(({ at }, n) => {
        const byte = 'byte' in at ? at.byte : Number.NaN;
        expect(byte).toBeGreaterThanOrEqual(Math.floor((n * total) / SAMPLED_OFFSETS));
        expect(byte).toBeLessThanOrEqual(((n + 1) * total) / SAMPLED_OFFSETS);
      });
    }
    expect(ways).toEqual(['out 0', 'in 0', 'out 2', 'in 2']);
  });

  test('has some of them in what follows after the guest has moved, on either channel', () => {
    const shares = (plan: readonly CaseSeries[], count: number): void => {
      const ways: string[] = [];
      for (const series of plan.filter(isBytes).slice(4)) {
        const cases = casesOf(series, 1000).map(parseCase);
        expect(cases).toHaveLength(count);
        const { direction, stream, postcopy } = cases[0] as FaultCase;
        expect(postcopy).toBe(true);
        ways.push(`${direction} ${stream}`);
        const { from, control, urgent } = BYTES.postcopy;
        const [least, end] = stream === 0 ? [from[direction], control[direction]] : [0, urgent[direction]];
        const places = cases.map(({ at }) => ('byte' in at ? at.byte : Number.NaN));
        expect(Math.min(...places)).toBeGreaterThanOrEqual(least);
        expect(Math.max(...places)).toBeLessThan(end);
      }
      expect(ways).toEqual(['out 0', 'out 1', 'in 0', 'in 1']);
    };
    shares(full, 250);
    shares(sampled(1), 2);
  });

  test('takes other offsets with another seed, and the same ones with the same', () => {
    const offsets = (seed: number) => casesOf(sampled(seed).find(isBytes) as CaseSeries);
    expect(offsets(7)).toEqual(offsets(7));
    expect(offsets(7)).not.toEqual(offsets(8));
  });

  test('has every kind of fault before every frame, both ways', () => {
    const frames = sample
      .filter(({ untilNotStruck }) => untilNotStruck)
      .map((one) => one.at(0) ?? '')
      .filter((name) => parseDeath(name) === undefined)
      .map(parseCase);
    for (const direction of ['out', 'in'] as const) {
      const kinds = new Set(frames.filter((one) => one.direction === direction).map(({ kind }) => kind));
      expect(kinds).toEqual(new Set(Object.keys(KINDS)));
    }
    expect(frames.filter(({ pageChannels }) => pageChannels === 2).map(({ stream }) => stream)).toEqual([0, 1, 2, 0]);
  });

  test('has either process die, and the cases that are many migrations', () => {
    const deaths = full.flatMap((one) => parseDeath(one.at(17) ?? '') ?? []);
    expect(
      deaths.map(
        ({ victim, direction, frame, postcopy }) => `${victim} ${direction} ${frame}${postcopy ? ', post-copy' : ''}`,
      ),
    ).toEqual(
      ['', ', post-copy'].flatMap((how) => [
        `source out 17${how}`,
        `source in 17${how}`,
        `destination out 17${how}`,
        `destination in 17${how}`,
      ]),
    );
    expect(sample.flatMap((one) => WHOLE_NAMES.filter((name) => name === one.at(0)))).toEqual([...WHOLE_NAMES]);
  });

  test('is what .ci/run runs, with no option that takes something away', () => {
    expect(readFileSync(join(ROOT, '.ci', 'run'), 'utf8')).toMatch(
      /^step 'faults' .* -- npm run test:faults -- --sample$/m,
    );
  });
});

describe('the name of a case', () => {
  test('stands for the case', () => {
    for (const series of full.filter(({ at }) => at(0)?.startsWith('kill:') === false)) {
      const name = series.at(3);
      if (name !== undefined) expect(caseName(parseCase(name))).toBe(name);
    }
    expect(parseCase(UNCUT.in)).toMatchObject({ kind: 'cut', direction: 'in', pageChannels: 0, checksum: false });
  });

  test.each(['', 'cut', 'cut:out:0:frame=x:channels=0:rounds=3', 'cut:out:0:frame=7:rounds=3', 'cut:up'])(
    '"%s" stands for none',
    (name) => {
      expect(() => parseCase(name)).toThrow('is no case; they look like cut:out:0:frame=7:channels=0:rounds=3');
    },
  );
});

describe('cases that are shared out', () => {
  const STRUCK: CaseResult = { struck: true, ending: 'moved', problems: [] };
  const MISSED: CaseResult = { struck: false, ending: 'moved', problems: [] };

  /** A series of unknown length. */
  function open(name: string): CaseSeries {
    return { name, at: (n) => `${name}:${n}`, untilNotStruck: true };
  }

  function fixed(name: string, count: number): CaseSeries {
    return { name, at: (n) => (n < count ? `${name}:${n}` : undefined), untilNotStruck: false };
  }

  /** Runs a queue with `takers` cases at a time; `choose` decides which of the running cases ends next. */
  function workOff(
    series: readonly CaseSeries[],
    reached: Readonly<Record<string, number>>,
    takers: number,
    choose: () => number,
  ) {
    const queue = new CaseQueue(series);
    const ran: string[] = [];
    const told: string[] = [];
    const underWay: HandedOut[] = [];
    while (!queue.over) {
      for (let one = underWay.length < takers ? queue.next() : undefined; one !== undefined; ) {
        ran.push(one.name);
        underWay.push(one);
        one = underWay.length < takers ? queue.next() : undefined;
      }
      const [ended] = underWay.splice(Math.floor(choose() * underWay.length), 1);
      if (ended === undefined) throw new Error('nobody runs anything, and the queue is not over');
      const [name = '', n] = ended.name.split(':');
      queue.settle(ended, Number(n) < (reached[name] ?? Number.POSITIVE_INFINITY) ? STRUCK : MISSED);
      for (const { name: over, endings } of queue.ended()) told.push(`${over} ${endings.get('moved') ?? 0}`);
    }
    return { ran, told };
  }

  test.each([1, 2, 6, 50])('are the same ones with %d takers, whoever is first', (takers) => {
    const series = [open('a'), fixed('f', 20), open('b'), open('none'), fixed('one', 1), fixed('empty', 0)];
    const reached = { a: 5, b: 9, none: 0 };
    for (let seed = 1; seed <= 20; seed++) {
      const { ran, told } = workOff(series, reached, takers, seeded(seed));
      expect(told).toEqual(['a 5', 'f 20', 'b 9', 'none 0', 'one 1', 'empty 0']);
      expect(ran).toHaveLength(new Set(ran).size);
      expect(ran).toHaveLength(5 + 9 + 0 + 3 * MISSES + 20 + 1);
    }
  });

  test('that are single come first, those that can fill in last', () => {
    const queue = new CaseQueue([fixed('f', 3), open('a'), fixed('one', 1)]);
    const names = Array.from({ length: 6 }, () => queue.next()?.name);
    expect(names).toEqual(['one:0', 'a:0', 'a:1', 'f:0', 'f:1', 'f:2']);
    expect(queue.next()).toBeUndefined();
    expect(queue.over).toBe(false);
  });

  test('go on after one miss, and end after two in a row', () => {
    const queue = new CaseQueue([open('a')]);
    const results = [STRUCK, MISSED, STRUCK, MISSED, MISSED];
    for (const result of results) queue.settle(queue.next() as HandedOut, result);
    expect(queue.over).toBe(true);
    expect(queue.next()).toBeUndefined();
    expect([...queue.ended()]).toMatchObject([{ endings: new Map([['moved', 2]]) }]);
  });
});
