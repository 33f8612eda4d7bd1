import type { FaultStatus, IncomingEvent } from '@godwit/core';
import { expect, test } from '@jest/globals';
import { ArrivalOutput } from '../../dist/command/arrival-output.js';
import { faultsText, latencyText } from '../../dist/demo/faults-text.js';

const FAULTS: FaultStatus = {
  pagesMissing: 2500,
  pagesTotal: 10_000,
  faults: 1234,
  faultsPerSecond: 321.4,
  zeroFaults: 0,
  duplicatePages: 0,
  latencyDistribution: [0, 0, 0, 0, 0, 3, 1200, 30, 0, 0, 1],
  worstLatencyUs: 1500,
  waitingUs: 0,
  blocked: [],
  pagesLost: 0,
  remainingMs: 4000,
};

test('the line about page faults has the missing pages, the faults a second and the longest fault', () => {
  expect(faultsText(FAULTS)).toBe(
    '2,500 of 10,000 pages missing, 1,234 faults, 321 a second, the longest 1.50 ms, 4.0 s left',
  );
  expect(faultsText({ ...FAULTS, pagesMissing: 0, worstLatencyUs: 812 })).toBe(
    '0 of 10,000 pages missing, 1,234 faults, the longest 812 us',
  );
  expect(faultsText({ ...FAULTS, faults: 0, faultsPerSecond: 0, remainingMs: undefined, pagesLost: 7 })).toBe(
    '2,500 of 10,000 pages missing, 0 faults, 7 pages cannot be had',
  );
  expect(latencyText(FAULTS)).toBe('3 up to 64 us, 1,200 up to 128 us, 30 up to 256 us, 1 up to 2.05 ms');
  expect(latencyText({ latencyDistribution: [] })).toBe('');
});

test('a guest that runs before its memory has come: a line a second about its faults, and all figures in the last line', () => {
  const lines: string[] = [];
  let now = 0;
  const output = new ArrivalOutput(
    (text) => lines.push(text),
    () => now,
  );
  output.event({ type: 'running', resumeMs: 1 });
  output.event({ type: 'state', state: 'postcopy-active', previous: 'device' });
  for (now = 0; now < 3000; now += 100) output.event({ type: 'faults', faults: FAULTS });
  const whole = { ...FAULTS, pagesMissing: 0, remainingMs: undefined };
  output.event({ type: 'faults', faults: whole });
  output.event({
    type: 'completed',
    summary: { rounds: 1, pages: {}, loadMs: 2, wireBytes: 0, runState: 'running', faults: whole },
  } as unknown as IncomingEvent);
  expect(lines.slice(0, 2)).toEqual([
    'the guest runs here',
    'its missing pages follow; until they are here it needs its source',
  ]);
  expect(lines.slice(2, 5)).toEqual([faultsText(FAULTS), faultsText(FAULTS), faultsText(FAULTS)]);
  expect(lines.slice(5)).toEqual([
    `the guest is here, running: 10,000 pages, 1,234 of which it waited for; its devices took 2 ms to load; faults: ${latencyText(whole)}`,
  ]);
});
