import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { sliceOf, ThrottleSlices } from '../dist/vcpu/throttle.js';

const fractions = fc.double({ min: 0.01, max: 0.99, noNaN: true });
const bounds = fc.oneof(fc.constant(Number.POSITIVE_INFINITY), fc.double({ min: 1, max: 2_000_000, noNaN: true }));

/** QEMU's slices for the same fractions, whatever the bound: 10 and 10, 2.5, 90 and 990 ms. */
test.each([
  [0.5, 300, { runMs: 10, holdMs: 10 }],
  [0.2, 300, { runMs: 10, holdMs: 2.5 }],
  [0.9, 300, { runMs: 1.11, holdMs: 10 }],
  [0.99, 300, { runMs: 0.1, holdMs: 10 }],
  [0.99, Number.POSITIVE_INFINITY, { runMs: 0.1, holdMs: 10 }],
  [0.5, 10, { runMs: 2.5, holdMs: 2.5 }],
  [0.9, 10, { runMs: 0.28, holdMs: 2.5 }],
  [0.9, 1, { runMs: 0.1, holdMs: 0.9 }],
  // The bound applies and not the fraction: the vCPU is held for 91 % of the time.
  [0.99, 1, { runMs: 0.1, holdMs: 1 }],
])('a throttle of %d with holds of at most %d ms', (fraction, longestMs, { runMs, holdMs }) => {
  const slice = sliceOf(fraction, longestMs);
  expect(slice.runMs).toBeCloseTo(runMs, 2);
  expect(slice.holdMs).toBeCloseTo(holdMs, 2);
});

test('a hold is never longer than the bound, and a quarter of it where the run can be made shorter instead', () => {
  fc.assert(
    fc.property(fractions, bounds, (fraction, longestMs) => {
      const { runMs, holdMs } = sliceOf(fraction, longestMs);
      expect(holdMs).toBeLessThanOrEqual(longestMs);
      expect(runMs).toBeGreaterThanOrEqual(0.1);
      expect(runMs).toBeLessThanOrEqual(10);
      if (runMs > 0.1) expect(holdMs).toBeLessThanOrEqual(Math.min(10, longestMs / 4) + 1e-9);
      const share = holdMs / (holdMs + runMs);
      expect(share).toBeLessThanOrEqual(fraction + 1e-9);
      if (holdMs < longestMs) expect(share).toBeCloseTo(fraction, 6);
    }),
  );
});

/** A thread that drives the slices: `late` says how much longer than asked each run takes, `woken` when a hold ends early. */
class Thread {
  readonly slices = new ThrottleSlices();
  now = 1000;
  ranMs = 0;
  heldMs = 0;
  longestHoldMs = 0;
  #stretchMs = 0;

  step(lateMs: number, woken: number): void {
    const holdMs = this.slices.due(this.now);
    const took = holdMs > 0 ? holdMs * woken : this.slices.runMs + lateMs;
    this.now += took;
    if (holdMs === 0) {
      this.ranMs += took;
      this.#stretchMs = 0;
      return;
    }
    this.slices.held(took);
    this.heldMs += took;
    this.#stretchMs += took;
    this.longestHoldMs = Math.max(this.longestHoldMs, this.#stretchMs);
  }

  get share(): number {
    return this.heldMs / (this.heldMs + this.ranMs);
  }
}

test('late threads and early wakes change neither the share of time nor the bound', () => {
  const steps = fc.array(
    fc.record({ late: fc.double({ min: 0, max: 0.1, noNaN: true }), woken: fc.constantFrom(0.1, 0.5, 1, 1, 1) }),
    { minLength: 400, maxLength: 400 },
  );
  fc.assert(
    fc.property(fc.double({ min: 0.05, max: 0.95, noNaN: true }), steps, (fraction, all) => {
      const thread = new Thread();
      thread.slices.set(fraction, 300);
      for (const { late, woken } of all) thread.step(late, woken);
      expect(Math.abs(thread.share - fraction)).toBeLessThan(0.05);
      expect(thread.longestHoldMs).toBeLessThanOrEqual(25 + 0.1);
    }),
    { numRuns: 50 },
  );
});

test('no hold is longer than the bound, for any sequence of late runs and early wakes', () => {
  fc.assert(
    fc.property(
      fractions,
      fc.double({ min: 1, max: 1000, noNaN: true }),
      fc.array(fc.double({ min: 0, max: 500, noNaN: true }), { minLength: 20 }),
      (fraction, longestMs, lates) => {
        const thread = new Thread();
        thread.slices.set(fraction, longestMs);
        for (const late of lates) thread.step(late, 1);
        // A hold may be longer by a remainder that is too short for a hold of its own.
        expect(thread.longestHoldMs).toBeLessThanOrEqual(longestMs + 0.05);
      },
    ),
  );
});

test('a thread that was not scheduled for a second is not held for as long', () => {
  const thread = new Thread();
  thread.slices.set(0.9, 300);
  thread.step(1000, 1);
  const before = thread.heldMs;
  for (let i = 0; i < 100; i++) thread.step(0, 1);
  expect(thread.heldMs - before).toBeLessThan(2 * 25 + 100 * 10);
});

test('a new fraction takes effect at once, in a hold too', () => {
  const thread = new Thread();
  thread.slices.set(0.99, 300);
  thread.step(5, 1);
  const owed = thread.slices.due(thread.now);
  expect(owed).toBe(25);
  // A change to another fraction has ended the hold early: at most one hold of the new fraction is left.
  thread.slices.held(1);
  thread.slices.set(0.2, 300);
  expect(thread.slices.due(thread.now)).toBeLessThanOrEqual(2.5);
  thread.slices.set(0, 300);
  expect(thread.slices.due(thread.now)).toBe(0);
  expect(thread.slices.active).toBe(false);
});

test('a pause in the middle of a run is neither run nor hold', () => {
  const slices = new ThrottleSlices();
  slices.set(0.5, 300);
  expect(slices.due(0)).toBe(0);
  expect(slices.beganAt(0)).toBe(true);
  slices.leave(4);
  // Resumed much later: 4 ms were run, so 4 ms are owed.
  expect(slices.due(5000)).toBeCloseTo(4);
  slices.held(4);
  expect(slices.due(5004)).toBe(0);
  expect(slices.due(5008)).toBe(0);
  expect(slices.beganAt(5008)).toBe(false);
  expect(slices.due(5014)).toBeCloseTo(10);
});
