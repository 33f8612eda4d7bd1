import { monotonicMicroseconds } from '@godwit/example-node-vmm';
import { afterEach, expect, jest, test } from '@jest/globals';

const BUSY_MS = 20;

afterEach(() => {
  jest.restoreAllMocks();
});

/** How far a reading of `clock` is outside of two readings of `process.hrtime` around it, in microseconds. */
function error(clock: () => number): number {
  const before = Number(process.hrtime.bigint()) / 1000;
  const time = clock();
  const after = Number(process.hrtime.bigint()) / 1000;
  return Math.max(0, before - time, time - after);
}

test('agrees with CLOCK_MONOTONIC', () => {
  const errors = Array.from({ length: 20 }, () => error(monotonicMicroseconds()));
  expect(Math.max(...errors)).toBeLessThan(1000);
});

test('a thread that loses its processor while it makes its clock is not behind for ever', () => {
  const read = process.hrtime.bigint.bind(process.hrtime);
  jest.spyOn(process.hrtime, 'bigint').mockImplementationOnce(() => {
    const time = read();
    const until = performance.now() + BUSY_MS;
    while (performance.now() < until);
    return time;
  });
  const clock = monotonicMicroseconds();
  jest.restoreAllMocks();
  expect(error(clock)).toBeLessThan((BUSY_MS / 4) * 1000);
});
