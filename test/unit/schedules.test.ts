import { describe, expect, jest, test } from '@jest/globals';
import { cutsWhileGoingBack, GOES_BACK_TWICE, obstacles, PAUSE_LIMIT_MS } from '../schedules/obstacles.js';
import { runSchedule } from '../schedules/run-schedule.js';
import { SABOTAGES } from '../schedules/sabotage.js';
import { type Schedule, scheduleOf } from '../schedules/schedule.js';

// Hundreds of migrations in virtual time are real work for a machine that does something else besides.
jest.setTimeout(240_000);

/** Runs all of them; returns what is wrong, in words. */
async function problemsOf(schedules: readonly Schedule[]): Promise<string[]> {
  const failed: string[] = [];
  for (const schedule of schedules) {
    const { problems } = await runSchedule(schedule);
    const faults = JSON.stringify(schedule.faults.at(-1));
    for (const { kind, message } of problems) failed.push(`seed ${schedule.seed}, ${faults}: ${kind}: ${message}`);
  }
  return failed;
}

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

describe('with the guest paused at the source', () => {
  test.each(obstacles())(
    `$name: it runs again within ${PAUSE_LIMIT_MS} ms and 50 more, and is moved once the obstacle is gone`,
    async ({ schedule }) => {
      const { problems, ending, resumes } = await runSchedule(schedule);
      expect(problems).toEqual([]);
      expect(ending).toBe('completed: runs at a destination');
      if (schedule.faults.every(({ action }) => action.do !== 'cut')) expect(resumes).toBeGreaterThan(0);
    },
  );
});

test('a migration that goes back twice is cut at 500 places: at none of them two run', async () => {
  const whole = await runSchedule(GOES_BACK_TWICE);
  expect([whole.problems, whole.resumes, whole.ending]).toEqual([[], 2, 'completed: runs at a destination']);
  const cuts = cutsWhileGoingBack(500, whole.sent);
  expect(cuts).toHaveLength(500);
  expect(await problemsOf(cuts)).toEqual([]);
});

/** Jest keeps what nobody has handled to itself; the command line has it: `--sabotage`. */
const NOT_HERE = 'an error that nobody handles';

describe('what is wrong on purpose is noticed', () => {
  test.each(Object.entries(SABOTAGES).filter(([name]) => name !== NOT_HERE))('%s', async (_, { caughtAs, make }) => {
    for (let seed = 1; seed <= 2000; seed++) {
      const { problems } = await runSchedule(scheduleOf(seed), { sabotage: make() });
      if (problems.some(({ kind }) => kind === caughtAs)) return;
    }
    throw new Error(`2000 schedules, and never "${caughtAs}"`);
  });
});
