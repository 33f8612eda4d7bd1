import { expect, jest, test } from '@jest/globals';
import { problemsOf, runSchedule } from '../schedules/run-schedule.js';
import { scheduleOf } from '../schedules/schedule.js';

// Hundreds of migrations in virtual time take real processor time, which a busy machine may lack.
jest.setTimeout(240_000);

test('300 random schedules: nobody runs twice, nothing is lost', async () => {
  expect(await problemsOf(Array.from({ length: 300 }, (_, index) => scheduleOf(index + 1)))).toEqual([]);
});

test('the same seed gives the same run, event by event', async () => {
  for (const seed of [4, 11]) {
    const first = await runSchedule(scheduleOf(seed), { tracing: true });
    expect(await runSchedule(scheduleOf(seed), { tracing: true })).toEqual(first);
    expect(first.trace.length).toBeGreaterThan(20);
  }
});
