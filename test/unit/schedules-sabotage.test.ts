import { describe, jest, test } from '@jest/globals';
import { runSchedule } from '../schedules/run-schedule.js';
import { SABOTAGES } from '../schedules/sabotage.js';
import { scheduleOf } from '../schedules/schedule.js';

// Hundreds of migrations in virtual time take real processor time, which a busy machine may lack.
jest.setTimeout(240_000);

/** Jest does not pass on unhandled errors, so that this sabotage is tested only by the command line: `--sabotage`. */
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
