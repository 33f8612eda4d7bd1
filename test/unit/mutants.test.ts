import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createContext, runInContext } from 'node:vm';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { API } from 'typescript/unstable/sync';
import { killedIn } from '../mutants/earlier-output.js';
import { type Instrumented, instrument, QUESTION } from '../mutants/instrument.js';
import { hashOf, idOf, type Mutant } from '../mutants/mutant.js';
import { report } from '../mutants/report.js';
import { sourcesOf, testsOf } from '../mutants/scope.js';
import { SURVIVORS } from '../mutants/survivors/index.js';
import type { Verdict } from '../mutants/try-mutants.js';

/** The repository; the tests run compiled, in test/dist/unit. */
const ROOT = join(import.meta.dirname, '..', '..', '..');

let folder: string;
beforeAll(() => {
  mkdirSync(join(ROOT, '.cache'), { recursive: true });
  folder = mkdtempSync(join(ROOT, '.cache', 'mutants-test-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function instrumented(code: string): Instrumented {
  writeFileSync(join(folder, 'a.ts'), code);
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ files: ['a.ts'] }));
  const api = new API({ cwd: folder });
  try {
    const project = join(folder, 'tsconfig.json');
    const source = api
      .updateSnapshot({ openProject: project })
      .getProject(project)
      ?.program.getSourceFile(join(folder, 'a.ts'));
    if (source === undefined) throw new Error('the compiler has no such file');
    return instrument(source, 'a.ts', 0);
  } finally {
    api.close();
  }
}

/** The mutants of the body of `f`, without the file and the name of the function. */
function changes(body: string, parameters = 'a: any, b: any, c: any'): string[] {
  const { mutants } = instrumented(`export async function f(${parameters}) { ${body} }`);
  return mutants.map((mutant) => idOf(mutant).replace('a.ts f: ', ''));
}

describe('the mutants of', () => {
  test.each([
    ['if (a > b) c();', ['a > b -> true', 'a > b -> false', 'a > b -> >=', 'c(); removed']],
    ['if (a === b) c();', ['a === b -> true', 'a === b -> false', 'c(); removed']],
    ['while (a !== b) c();', ['a !== b -> false', 'a !== b -> ===', 'c(); removed']],
    ['for (;;) break;', ['break; removed']],
    ['c(a && !b);', ['c(a && !b); removed', 'a && !b -> left side', 'a && !b -> right side', '!b without !']],
    ['a = b ?? c;', ['a = b ?? c; removed', 'b ?? c -> left side', 'b ?? c -> right side']],
    ['a += 1;', ['a += 1; removed', 'a += 1 -> -=', '1 -> 2']],
    ['a[0]++;', ['a[0]++; removed', 'a[0]++ -> --', '0 -> 1']],
    ['return 1_000 * a;', ['1_000 * a -> /', '1_000 * a -> undefined', '1_000 -> 2000']],
    ['return undefined;', []],
    ['await a.b(c);', ['await a.b(c); removed', 'await a.b(c) without await']],
    ['a(b, true);', ['a(b, true); removed', 'a(b, true) without its last argument', 'true -> false']],
    ['a?.b?.(c);', ['a?.b?.(c); removed', 'a?.b?.(c) without ?. at a?.b', 'a?.b?.(c) without ?. at a']],
    ['a = [b];', ['a = [b]; removed', '[b] -> []']],
    ['a = Math.min(b);', ['a = Math.min(b); removed', 'Math.min(b) -> Math.max']],
    // Codes are changed; messages, which are for people, are not.
    ["throw new a('CODE', 'two words');", ["throw new a('CODE', 'two words'); removed", "'CODE' -> ''"]],
    [`a = \`\${b > c}\` + b;`, [`a = \`\${b > c}\` + b; removed`]],
    ["a = b === 'word';", ["a = b === 'word'; removed", "b === 'word' -> !=="]],
    ['[a, b] = c as typeof c & 5;', ['[a, b] = c as typeof c & 5; removed']],
  ] as const)('%s', (body, expected) => {
    expect(changes(body).sort()).toEqual([...expected].sort());
  });

  test('a class have its name and the method, and tell equal changes apart', () => {
    const { mutants } = instrumented(
      'export class A { #n = 5; get twice() { return this.#n + 5 + 5; } constructor() {} }',
    );
    expect(mutants.filter(({ code }) => code === '5').map(idOf)).toEqual([
      'a.ts A.#n: 5 -> 10',
      'a.ts A.twice: 5 -> 10',
      'a.ts A.twice: 5 -> 10 #2',
    ]);
  });

  test('code that has moved keep their identity', () => {
    const code = 'export function f(a: number) { return a > 5 ? 1 : 2; }';
    const moved = instrumented(`/** What it does. */\n\nconst other = 7;\nvoid other;\n${code}`).mutants;
    const own = moved.filter(({ member }) => member === 'f');
    expect(own.map(idOf)).toEqual(instrumented(code).mutants.map(idOf));
    expect(own[0]?.line).toBe(5);
  });
});

describe('instrumented code', () => {
  const code = `
    interface Counter { readonly next?: () => number }
    export const LIMIT: number = 3;
    class Tally implements Counter {
      #count = 0;
      next(): number { return ++this.#count; }
      under(limit: number): boolean { if (this.#count < limit) return true; else return false; }
    }
    const tally = new Tally();
    const log: unknown[] = [];
    for (let n = 0; n < 2; n++) log.push(tally?.next(), tally.under(LIMIT) && n);
    (globalThis as any).result = JSON.stringify(log);
  `;

  function resultOf({ code }: Instrumented, mutant: number | undefined): string {
    const context = createContext({ [QUESTION]: (number: number) => number === mutant });
    runInContext(code.replaceAll('export ', ''), context, { timeout: 1000 });
    return String(context['result']);
  }

  test('does what the code does as long as no mutant is chosen', () => {
    expect(resultOf(instrumented(code), undefined)).toBe('[1,0,2,1]');
  });

  test.each([
    ['++this.#count -> --', '[-1,0,-2,1]'],
    ['this.#count < limit -> false', '[1,false,2,false]'],
    ['0 -> 1', '[2,0,3,false]'],
    ['LIMIT: 3 -> 6', '[1,0,2,1]'],
    ['tally.under(LIMIT) && n -> left side', '[1,true,2,true]'],
    ['log.push(tally?.next(), tally.under(LIMIT) && n); removed', '[]'],
  ])('with %s does that', (name, expected) => {
    const made = instrumented(code);
    const at = made.mutants.findIndex((mutant) => idOf(mutant).endsWith(name));
    expect(at).not.toBe(-1);
    expect(resultOf(made, at)).toBe(expected);
  });

  test('asks for each mutant by its own number', () => {
    const { mutants, code: made } = instrumented(code);
    const asked = [...made.matchAll(/__isMutant\((\d+)\)/g)].map(([, number]) => Number(number));
    expect([...new Set(asked)].sort((a, b) => a - b)).toEqual([...mutants.keys()]);
  });
});

describe('the report', () => {
  const mutant = { file: 'a.ts', member: 'f', code: 'a > b', change: '-> true', nth: 1, line: 7 };
  const verdictOn = (id: string, killed: boolean): Verdict => ({
    mutant,
    id,
    killed: killed ? { by: 'a: works', why: 'Error' } : undefined,
    tests: 3,
  });
  const [listed] = SURVIVORS.flatMap(({ file, mutants }) => mutants.map((one) => `${file} ${one}`)) as [string];
  const killed = (count: number) => Array.from({ length: count }, (_, n) => verdictOn(`a.ts f: ${n}`, true));

  test('fails at a survivor without a reason, and says where it is', () => {
    const { lines, failed } = report([...killed(99), verdictOn('a.ts f: a > b -> true', false)], new Set(), false);
    expect(failed).toBe(true);
    expect(lines).toContain('SURVIVED a.ts f: a > b -> true\n  packages/core/src/a.ts:7: 3 tests reach it and pass');
  });

  test('lists a survivor that has a reason, with it', () => {
    const { lines, failed } = report([...killed(9), verdictOn(listed, false)], new Set([listed]), true);
    expect(failed).toBe(false);
    expect(lines.find((line) => line.startsWith(`survived, as listed: ${listed} (line 7): `))).toBeDefined();
    expect(lines.at(-1)).toBe('score: 90.0 % (at least 80 %)');
  });

  test('says which reasons are out of date', () => {
    const { lines } = report([verdictOn(listed, true)], new Set([listed]), false);
    expect(lines).toContain(`listed, but killed now by a: works: ${listed}`);
    expect(report([], new Set(), false).lines).toContain(`listed, but there is no such mutant: ${listed}`);
  });

  test('fails below the least score, reasons or not; the score of a part means nothing', () => {
    const verdicts = [...killed(3), verdictOn(listed, false)];
    expect(report(verdicts, new Set([listed]), true).failed).toBe(true);
    expect(report(verdicts, new Set([listed]), false).failed).toBe(false);
  });
});

describe('the data', () => {
  test('has tests for each source, and a reason once for each survivor', () => {
    const sources = sourcesOf(ROOT);
    expect(sources).toEqual(
      expect.arrayContaining(['claim/claim.ts', 'session/retry.ts', 'source/phases/hand-over.ts']),
    );
    expect(sources.filter((file) => testsOf(file).length === 0)).toEqual([]);
    const ids = SURVIVORS.flatMap(({ file, mutants }) => mutants.map((mutant) => `${file} ${mutant}`));
    expect(ids.filter((id, at) => ids.indexOf(id) !== at)).toEqual([]);
    expect(SURVIVORS.filter(({ file }) => !sources.includes(file)).map(({ file }) => file)).toEqual([]);
  });

  test('of a sample is spread by the seed, and the same for the same seed', () => {
    const ids = Array.from({ length: 100 }, (_, n) => `a.ts f: ${n}`);
    const first = (seed: number) => ids.toSorted((a, b) => hashOf(a, seed) - hashOf(b, seed)).slice(0, 10);
    expect(first(1)).toEqual(first(1));
    expect(first(1)).not.toEqual(first(2));
    expect(first(1)).not.toEqual(ids.slice(0, 10));
  });
});

describe("an earlier run's output", () => {
  const mutants: Mutant[] = ['true', 'false', '>='].map((to) => {
    return { file: 'a.ts', member: 'f', code: 'a > b', change: `-> ${to}`, nth: 1, line: 3 };
  });

  test('says which mutants were killed, and by which test', () => {
    const output = [
      '3 of 3 mutants, 1 at a time',
      'killed: a.ts f: a > b -> true',
      '  by a: works: expected 1',
      'survived 4 tests: a.ts f: a > b -> false',
      'killed: a.ts g: is no longer there -> true',
      '  by a: works: expected 1',
    ].join('\n');
    const verdicts = killedIn(output, mutants);
    expect([...verdicts.keys()]).toEqual([0]);
    expect(verdicts.get(0)).toMatchObject({ id: 'a.ts f: a > b -> true', killed: { by: 'a: works: expected 1' } });
  });

  test('that was cut off within a mutant does not count it', () => {
    expect(killedIn('killed: a.ts f: a > b -> true', mutants).size).toBe(0);
  });
});
