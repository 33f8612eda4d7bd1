import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { StreamEncoding } from '@godwit/core';
import { encodingSuite, vectorOf } from '@godwit/core/testing';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';

const page = readFileSync(join(import.meta.dirname, '..', '..', '..', 'docs', 'write-an-encoding.md'), 'utf8');
const files = new Map(
  [...page.matchAll(/^```js\n\/\/ (\S+)\n([\s\S]*?)^```$/gm)].map(([, file, code]) => [file as string, code as string]),
);
const folder = join(import.meta.dirname, 'write-an-encoding');

beforeAll(() => {
  mkdirSync(folder, { recursive: true });
  for (const [file, code] of files) writeFileSync(join(folder, file), code);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs a file of the folder with Node's own test runner. */
function run(file: string): { readonly status: number | null; readonly output: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--test', '--test-reporter=spec', file], {
    cwd: folder,
    encoding: 'utf8',
    env: { ...process.env, NODE_TEST_CONTEXT: undefined },
  });
  return { status, output: stdout + stderr };
}

describe('docs/write-an-encoding.md', () => {
  test('its encoding passes the suite with the very fixture that the page prints', () => {
    expect([...files.keys()]).toEqual(['dedupe.mjs', 'dedupe.test.mjs']);
    const { status, output } = run('dedupe.test.mjs');
    expect({ status, output }).toMatchObject({ status: 0, output: expect.stringContaining('decodes the vector') });
    expect(output).toMatch(/pass 1[4-9]\b/);
  }, 300_000);

  test('its vector is what its encoder makes', async () => {
    const { dedupe } = (await import(pathToFileURL(join(folder, 'dedupe.mjs')).href)) as {
      dedupe: () => StreamEncoding;
    };
    const one = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
    const { pieces } = await vectorOf('a page', dedupe(), 8, [Uint8Array.of(...one, ...one), one]);
    expect(pieces.map(({ bytes }) => bytes)).toEqual(['000001020304050607080001', '0001']);
    for (const { bytes } of pieces) expect(page).toContain(`bytes: '${bytes}'`);
  });

  test.each([
    [
      'keeps its memory over all channels',
      'encoder: () => new Encoder()',
      'encoder: () => (globalThis.one ??= new Encoder())',
      'keeps its channels apart',
    ],
    [
      'gives more than it was asked for',
      /if \(at !== bytes.length\) throw .*\n {4}return into;/,
      'return Buffer.concat([into, bytes.subarray(at)]);',
      'damaged bytes',
    ],
    [
      'gives back what it keeps',
      'return new Uint8Array(Buffer.concat(parts));',
      'const all = Buffer.concat(parts); return (globalThis.out ??= Buffer.alloc(2 ** 23)).subarray(0, all.copy(globalThis.out));',
      'gives its result away',
    ],
    [
      'forgets what came',
      'if (!isNew) continue;\n      this.memory.put(page);',
      'if (!isNew) continue;',
      'gives back what it was given',
    ],
  ])(
    'a suite that notices: one that %s fails',
    (_what, right, wrong, failure) => {
      const code = files.get('dedupe.mjs') as string;
      expect(code.replace(right, wrong)).not.toBe(code);
      writeFileSync(join(folder, 'wrong.mjs'), code.replace(right, wrong));
      const fixture = (files.get('dedupe.test.mjs') as string).replace('./dedupe.mjs', './wrong.mjs');
      writeFileSync(join(folder, 'wrong.test.mjs'), fixture);
      const { status, output } = run('wrong.test.mjs');
      expect(status).toBe(1);
      expect(output).toContain(`✖ ${failure}`);
    },
    300_000,
  );
});

describe('what the suite says', () => {
  const failures = new Map<string, string>();

  beforeAll(async () => {
    const bodies: [string, () => Promise<void>][] = [];
    const runner = {
      describe: (_name: string, body: () => void) => body(),
      test: (name: string, body: () => Promise<void>) => bodies.push([name, body]),
    };
    const never: StreamEncoding = {
      kind: 'stream',
      name: 'never',
      expectedMsPerMiB: 1,
      stateBytes: 0,
      encoder: () => ({ encode: () => undefined }),
      decoder: () => ({ decode: () => new Uint8Array() }),
    };
    encodingSuite('one that never helps', runner, { make: () => never });
    for (const [name, body] of bodies) {
      await body().catch((error: unknown) => failures.set(name, String(error)));
    }
  }, 120_000);

  test('of an encoding that never helps names what to set', () => {
    expect(failures.size).toBeGreaterThan(1);
    for (const message of failures.values()) expect(message).toContain('set `sample`');
  });
});
