/** Mutants of one file that no test kills, and why. */
export interface Survivors {
  /** The file's path below packages/core/src. */
  readonly file: string;
  readonly why: string;
  /** As `npm run test:mutants` prints them, without the file. */
  readonly mutants: readonly string[];
}

export const SURVIVORS: readonly Survivors[] = [];

const REASONS: ReadonlyMap<string, string> = new Map(
  SURVIVORS.flatMap(({ file, why, mutants }) => mutants.map((mutant) => [`${file} ${mutant}`, why] as const)),
);

/** Why a mutant survives; `undefined` when nothing is listed. */
export function reasonOf(id: string): string | undefined {
  return REASONS.get(id);
}
