import { idOf, type Mutant } from './mutant.js';
import type { Verdict } from './try-mutants.js';

/** Each killed mutant of an output with `--verbose` has two lines. */
const KILLED = /^killed: (.*)\n {2}by (.*)$/gm;

/**
 * The mutants that an earlier run has killed, out of what it printed with `--verbose`. Mutants that it did not reach or that survived it
 * are left out: they are to be tried, since there may be new tests.
 */
export function killedIn(output: string, mutants: readonly Mutant[]): Map<number, Verdict> {
  const killers = new Map([...output.matchAll(KILLED)].map(([, id, by]) => [id, by as string]));
  const verdicts = new Map<number, Verdict>();
  for (const [number, mutant] of mutants.entries()) {
    const id = idOf(mutant);
    const by = killers.get(id);
    if (by !== undefined) verdicts.set(number, { mutant, id, killed: { by, why: '' }, tests: 1 });
  }
  return verdicts;
}
