import type { LiveGuest } from '../guest/live-guest.js';
import { WHOLE_NAMES, type WholeName } from './all-cases.js';
import type { CaseResult } from './case-messages.js';
import { cutTenTimes } from './cut-ten-times.js';
import { failedMigrations } from './failed-migrations.js';

interface WholeCase {
  /** Number of cases that it counts as. */
  readonly cases: number;
  run(guest: LiveGuest): Promise<{ readonly summary: string; readonly problems: readonly string[] }>;
}

/** Number of failed migrations, after which no resource may have grown. */
const FAILURES = 100;

const WHOLE: Readonly<Record<WholeName, WholeCase>> = {
  'cut-ten-times': { cases: 1, run: () => cutTenTimes(2 ** 30) },
  'failed-migrations': { cases: FAILURES + 1, run: (guest) => failedMigrations(guest, FAILURES) },
};

export function parseWhole(name: string): WholeName | undefined {
  return WHOLE_NAMES.find((one) => one === name);
}

export async function runWhole(name: WholeName, guest: LiveGuest): Promise<CaseResult> {
  const { cases, run } = WHOLE[name];
  const { summary, problems } = await run(guest);
  const ending = problems.length === 0 ? 'as it must be' : 'figures that must not be';
  return { struck: true, ending, problems, summary, cases };
}
