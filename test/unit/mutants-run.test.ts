import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { copyOfCore } from '../mutants/copy.js';
import { idOf } from '../mutants/mutant.js';
import { tryMutants } from '../mutants/try-mutants.js';

/** The repository; the tests run compiled, in test/dist/unit. */
const ROOT = join(import.meta.dirname, '..', '..', '..');

/** Mutants, and their known verdicts. */
const KNOWN = {
  // An index that was found has an element.
  'Pings.answered: waiting?.resolve(this.#clock.now() - waiting.sentAt) without ?. at waiting': 'survived',
  'FirstCause.set: this.#over.abort(error); removed': 'an error',
  'Pings.answered: at === -1 -> true': 'Error: it waits for ever',
  'Pings.answer: next !== undefined -> true': 'it came to no end, or ended the process',
} as const;

test('mutants are tried on a copy: killed by an error, by a wait or a loop without end, or not at all', async () => {
  const copy = copyOfCore(ROOT, ['session/first-cause.ts', 'session/pings.ts']);
  try {
    const numbers = Object.keys(KNOWN).map((name) => copy.mutants.findIndex((mutant) => idOf(mutant).endsWith(name)));
    expect(numbers).not.toContain(-1);
    const verdicts = await tryMutants(copy, numbers, { parallel: 1, quickestFirst: false, onVerdict: () => {} });
    const ends = verdicts.map(({ id, killed }) => {
      const why = killed?.why ?? 'survived';
      return [id.replace(/^\S+ /, ''), /^\w*Error(?!: it waits)/.test(why) ? 'an error' : why];
    });
    expect(Object.fromEntries(ends)).toEqual(KNOWN);
    expect(verdicts.filter(({ tests }) => tests === 0)).toEqual([]);
  } finally {
    copy.remove();
  }
  expect(existsSync(copy.root)).toBe(false);
}, 120_000);
