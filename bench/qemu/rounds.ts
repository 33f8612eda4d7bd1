import { type CaseResult, caseResult, type EntrantResult, entrantResult } from './result.js';
import type { Case, Entrant, Sample } from './sample.js';

/**
 * Measures all entrants of a case in `rounds` rounds, one at a time: forwards in one round and backwards in the next, so that no entrant
 * always follows the same one.
 *
 * @param report called after each run
 */
export async function playCase(one: Case, rounds: number, report: (text: string) => void): Promise<CaseResult> {
  const runs = new Map<Entrant, { readonly samples: Sample[]; readonly problems: string[] }>(
    one.entrants.map((entrant) => [entrant, { samples: [], problems: [] }]),
  );
  for (let round = 0; round < rounds; round++) {
    const order = round % 2 === 0 ? one.entrants : one.entrants.toReversed();
    for (const entrant of order) {
      const run = runs.get(entrant);
      const place = `${one.name} ${round + 1}/${rounds}: ${entrant.name}`;
      try {
        const sample = await entrant.measure();
        run?.samples.push(sample);
        report(`${place}: ${tell(sample)}`);
      } catch (error) {
        const problem = error instanceof Error ? error.message : String(error);
        run?.problems.push(problem);
        report(`${place}: failed: ${problem}`);
      }
    }
  }
  const results: EntrantResult[] = [...runs].map(([{ name }, { samples, problems }]) =>
    entrantResult(name, samples, problems),
  );
  return caseResult(one, results);
}

function tell({ figures, endedByItself, wrong }: Sample): string {
  const { totalMs, downtimeMs, loadMs } = figures;
  const parts = [
    ...(totalMs === undefined ? [] : [`${totalMs.toFixed(0)} ms`]),
    ...(loadMs === undefined ? [] : [`loaded in ${loadMs.toFixed(0)} ms`]),
    ...(downtimeMs === undefined ? [] : [`down for ${downtimeMs.toFixed(0)} ms`]),
    ...(endedByItself === false ? ['did not end by itself'] : []),
    ...(wrong === undefined ? [] : [`WRONG: ${wrong}`]),
  ];
  return parts.join(', ');
}
