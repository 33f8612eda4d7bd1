import { describe, jest, test } from '@jest/globals';
import { runSchedule } from '../schedules/run-schedule.js';
import { SABOTAGES } from '../schedules/sabotage.js';
import { scheduleOf } from '../schedules/schedule.js';

// Hundreds of migrations in virtual time are real work for a machine that does something else besides.
jest.setTimeout(240_000);

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
