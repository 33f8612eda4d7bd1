import { type Outcome, runSchedule } from './run-schedule.js';
import type { SabotageKind } from './sabotage.js';
import { partsOf, scheduleOf, without } from './schedule.js';

/** A failing schedule that stops failing when any one of its parts is removed. */
export interface Shrunk {
  readonly seed: number;
  /** Parts of the schedule of `seed` that were removed. */
  readonly left: ReadonlySet<string>;
  readonly outcome: Outcome;
}

/**
 * Removes parts from the schedule of `seed`, one after the other, while it still fails with a first problem of the same kind. Resolves
 * with `undefined` if the whole schedule does not fail.
 */
export async function shrink(seed: number, sabotage?: SabotageKind): Promise<Shrunk | undefined> {
  const whole = scheduleOf(seed);
  const run = (left: ReadonlySet<string>, tracing = false) =>
    runSchedule(without(whole, left), { tracing, ...(sabotage !== undefined ? { sabotage: sabotage.make() } : {}) });
  const first = await run(new Set());
  const kind = first.problems[0]?.kind;
  if (kind === undefined) return undefined;
  let left: ReadonlySet<string> = new Set<string>();
  for (let smaller = true; smaller; ) {
    smaller = false;
    for (const part of partsOf(whole)) {
      if (left.has(part)) continue;
      const fewer = new Set([...left, part]);
      const { problems } = await run(fewer);
      if (problems[0]?.kind !== kind) continue;
      left = fewer;
      smaller = true;
    }
  }
  return { seed, left, outcome: await run(left, true) };
}
