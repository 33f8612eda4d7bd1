import { CLAIM } from './claim.js';
import { DESTINATION_PHASES } from './destination-phases.js';
import { QUEUE } from './queue.js';
import { SESSION } from './session.js';
import { SINK } from './sink.js';
import { SOURCE_PHASES } from './source-phases.js';
import type { Survivors } from './survivors.js';

/** Every mutant that is known to survive, and why. */
export const SURVIVORS: readonly Survivors[] = [
  ...CLAIM,
  ...DESTINATION_PHASES,
  ...QUEUE,
  ...SESSION,
  ...SINK,
  ...SOURCE_PHASES,
];

const REASONS: ReadonlyMap<string, string> = new Map(
  SURVIVORS.flatMap(({ file, why, mutants }) => mutants.map((mutant) => [`${file} ${mutant}`, why] as const)),
);

/** Why a mutant survives; `undefined` when nothing is listed. `id` is what `idOf` returns. */
export function reasonOf(id: string): string | undefined {
  return REASONS.get(id);
}
