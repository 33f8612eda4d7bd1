import { execFileSync } from 'node:child_process';
import { join, relative } from 'node:path';
import { beforeAll, describe, expect, test } from '@jest/globals';

/** The repository; the tests run compiled, in test/dist/unit. */
const ROOT = join(import.meta.dirname, '..', '..', '..');

interface Row {
  readonly files: string;
  readonly runs: boolean;
  readonly why: string;
}

interface Scope {
  readonly SCOPE: readonly Row[];
  rowOf(file: string): Row | undefined;
}

const { SCOPE, rowOf } = (await import(join(ROOT, 'tools', 'node-versions-scope.js'))) as Scope;

describe('what `npm run test:node-versions -- --others` runs', () => {
  let files: readonly string[];

  beforeAll(() => {
    const list = execFileSync('npm', ['run', '--silent', 'jest', '--', '--listTests', '--json'], {
      cwd: ROOT,
      encoding: 'utf8',
    });
    files = (JSON.parse(list) as string[]).map((file) => relative(ROOT, file));
  });

  test('is decided for each test file', () => {
    expect(files.length).toBeGreaterThan(0);
    expect(files.filter((file) => rowOf(file) === undefined)).toEqual([]);
  });

  test('has no row that decides over no file', () => {
    const deciding = new Set(files.map(rowOf));
    expect(SCOPE.filter((row) => !deciding.has(row))).toEqual([]);
  });

  test.each(['linux', 'transport', 'workers', 'observe', 'godwit'])('has tests of packages/%s', (name) => {
    const own = files.filter((file) => file.startsWith(`packages/${name}/`));
    expect(own.filter((file) => rowOf(file)?.runs).length).toBeGreaterThan(own.length / 3);
  });

  test('is said with a reason in each row', () => {
    expect(SCOPE.filter(({ why }) => why.length < 10)).toEqual([]);
  });
});
