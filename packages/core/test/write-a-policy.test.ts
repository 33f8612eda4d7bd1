import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type ConvergencePolicy, presets } from '@godwit/core';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { play, type World } from './round-oracle.js';

const document = readFileSync(join(import.meta.dirname, '..', '..', '..', 'docs', 'write-a-policy.md'), 'utf8');
const blocks = [...document.matchAll(/^```js\n\/\/ (\S+)\n([\s\S]*?)^```$/gm)].map(([, file, code]) => ({
  file: file as string,
  code: code as string,
}));
const folder = join(import.meta.dirname, 'write-a-policy');

beforeAll(() => {
  mkdirSync(folder, { recursive: true });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Writes a block of the document to a file of its own, and imports it. */
async function run(index: number): Promise<ConvergencePolicy> {
  const block = blocks[index];
  if (block === undefined) throw new Error(`docs/write-a-policy.md has no block ${index}`);
  const path = join(folder, `block-${index}.mjs`);
  writeFileSync(path, block.code.replace("'./mine.mjs'", "'./block-0.mjs'"));
  const module = (await import(pathToFileURL(path).href)) as { readonly default: ConvergencePolicy };
  return module.default;
}

const PAGE = 4096;
const GIB = 2 ** 30 / PAGE;
const GB = 1e9 / PAGE;

/** The guest and the link of the command that the document shows. */
const WORLD: World = {
  pages: 64 * GIB,
  writes: 4 * GB,
  workingSet: 3 * GIB,
  link: (25 / 8) * GB,
  order: 'random',
  limitMs: 300,
  budgetMs: 120_000,
};

describe('docs/write-a-policy.md', () => {
  test('its code runs, block by block', async () => {
    expect(blocks.map(({ file }) => file)).toEqual(['mine.mjs', 'mine.mjs', 'mine.mjs', 'mine.test.mjs']);
    for (const index of blocks.keys()) await run(index);
  });

  test('the policy is five lines, and does what is said of it', async () => {
    const policy = await run(0);
    expect(policy.name).toBe('patient');
    expect(blocks[0]?.code.trim().split('\n')).toHaveLength(5);
    expect(play({ ...WORLD, writes: GB }, policy).end).toBe('switchover');
    expect(play({ ...WORLD, writes: 8 * GB }, policy).end).toBe('never');
  });

  test('a preset may be a part of another policy', async () => {
    const policy = await run(2);
    const { end, decision } = play(WORLD, policy);
    expect(end).toBe('switchover');
    expect(decision).toMatchObject({ downtimeLimitMs: expect.any(Number) });
  });

  test.each(Object.keys(presets))('names the preset %s', (name) => {
    expect(document).toContain(`\`${name}\``);
  });
});
