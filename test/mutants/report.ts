import { reasonOf, SURVIVORS } from './survivors/index.js';
import type { Verdict } from './try-mutants.js';

/** The least score of all files together, in per cent. */
const LEAST_SCORE = 80;

/** The verdicts on many mutants, for people. */
export interface Report {
  readonly lines: readonly string[];
  /** Whether a mutant survived for which no reason is listed, or the score is too low. */
  readonly failed: boolean;
}

/**
 * Counts verdicts by file, and lists the survivors. `all` has all existing mutants: reasons for other mutants are out of
 * date. `scored`: whether the verdicts cover all mutants, so that the score is meaningful.
 */
export function report(verdicts: readonly Verdict[], all: ReadonlySet<string>, scored: boolean): Report {
  const survivors = verdicts.filter(({ killed }) => killed === undefined);
  const known = survivors.filter(({ id }) => reasonOf(id) !== undefined);
  const found = survivors.filter(({ id }) => reasonOf(id) === undefined);
  const score = scoreOf(verdicts);
  const lines = [
    ...table(verdicts),
    ...known.map(({ id, mutant }) => `survived, as listed: ${id} (line ${mutant.line}): ${reasonOf(id)}`),
    ...outdated(verdicts, all),
    ...found.map(described),
    `${verdicts.length} mutants: ${verdicts.length - survivors.length} killed, ${known.length} survived as listed, ${found.length} survived without a reason`,
  ];
  if (scored) lines.push(`score: ${score.toFixed(1)} % (at least ${LEAST_SCORE} %)`);
  return { lines, failed: found.length > 0 || (scored && score < LEAST_SCORE) };
}

function described({ id, mutant, tests }: Verdict): string {
  const reached = tests === 0 ? 'no test reaches it' : `${tests} tests reach it and pass`;
  return `SURVIVED ${id}\n  packages/core/src/${mutant.file}:${mutant.line}: ${reached}`;
}

/** Reasons that are no longer needed. */
function outdated(verdicts: readonly Verdict[], all: ReadonlySet<string>): string[] {
  const killed = new Map(
    verdicts.flatMap(({ id, killed }) => (killed === undefined ? [] : [[id, killed.by] as const])),
  );
  return SURVIVORS.flatMap(({ file, mutants }) => mutants.map((mutant) => `${file} ${mutant}`)).flatMap((id) => {
    if (!all.has(id)) return [`listed, but there is no such mutant: ${id}`];
    const by = killed.get(id);
    return by === undefined ? [] : [`listed, but killed now by ${by}: ${id}`];
  });
}

function table(verdicts: readonly Verdict[]): string[] {
  const files = [...new Set(verdicts.map(({ mutant }) => mutant.file))].sort();
  const width = Math.max(...files.map((file) => file.length), 4);
  const row = (name: string, own: readonly Verdict[]): string => {
    const killed = own.filter((verdict) => verdict.killed !== undefined).length;
    return `${name.padEnd(width)} ${String(own.length).padStart(7)} ${String(killed).padStart(6)} ${scoreOf(own).toFixed(0).padStart(7)}`;
  };
  return [
    `${'file'.padEnd(width)} mutants killed score,%`,
    ...files.map((file) =>
      row(
        file,
        verdicts.filter(({ mutant }) => mutant.file === file),
      ),
    ),
  ];
}

/** Killed mutants in per cent of all. */
function scoreOf(verdicts: readonly Verdict[]): number {
  const killed = verdicts.filter((verdict) => verdict.killed !== undefined).length;
  return verdicts.length === 0 ? 100 : (100 * killed) / verdicts.length;
}
