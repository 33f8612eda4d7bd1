import { describe, expect, jest, test } from '@jest/globals';
import { cutsWhileGoingBack, GOES_BACK_TWICE, obstacles, PAUSE_LIMIT_MS } from '../schedules/obstacles.js';
import { problemsOf, runSchedule } from '../schedules/run-schedule.js';

// Hundreds of migrations in virtual time take real processor time, which a busy machine may lack.
jest.setTimeout(600_000);

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
