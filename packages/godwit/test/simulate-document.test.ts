import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { godwit } from './godwit-command.js';

jest.setTimeout(240_000);

const DOCUMENT = readFileSync(join(import.meta.dirname, '..', '..', '..', 'docs', 'write-a-policy.md'), 'utf8');
/** Below the package, where the policy's import of `@godwit/core` finds it. */
const FOLDER = join(import.meta.dirname, 'simulate-document');

beforeAll(() => {
  mkdirSync(FOLDER, { recursive: true });
});
afterAll(() => rmSync(FOLDER, { recursive: true, force: true }));

test('docs/write-a-policy.md: its command prints its table', async () => {
  const [, policy] = [...DOCUMENT.matchAll(/```js\n\/\/ mine\.mjs\n([\s\S]*?)```/g)].map(([, code]) => code as string);
  const mine = join(FOLDER, 'mine.mjs');
  writeFileSync(mine, policy as string);
  const [, command = ''] = /^godwit (simulate [\s\S]*?)\n```/m.exec(DOCUMENT) ?? [];
  const words = command
    .replaceAll('\\\n', ' ')
    .split(/\s+/)
    .filter((word) => word !== '');
  const { stdout, stderr } = await godwit(words.map((word) => word.replace('./mine.mjs', mine)));
  expect(stderr).toBe('');
  const [, table = ''] = /^(policy +outcome[\s\S]*?)\n\n/m.exec(stdout) ?? [];
  // The path is longer than in the document, and the columns are as wide as it.
  const cells = (text: string) =>
    text
      .replaceAll(mine, './mine.mjs')
      .split('\n')
      .map((line) => line.trim().split(/ {2,}/).join('  '));
  const [, shown = ''] = /```text\n(policy +outcome[\s\S]*?)\n```/.exec(DOCUMENT) ?? [];
  expect(cells(table)).toEqual(cells(shown));
});
