import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';

/** The repository; the tests run compiled, in test/dist/unit. */
const ROOT = join(import.meta.dirname, '..', '..', '..');

test('the transport of docs/write-a-transport.md passes the suite with the very fixture that the page prints', () => {
  const page = readFileSync(join(ROOT, 'docs', 'write-a-transport.md'), 'utf8');
  const files = [...page.matchAll(/^```ts\n\/\/ (\S+\.ts)\n([\s\S]*?)^```$/gm)];
  expect(files.map(([, name]) => name)).toEqual(['plain-tcp.ts', 'plain-tcp.test.ts']);
  const [[, , transport = ''] = []] = files;
  const lines = transport.slice(transport.indexOf('export')).trim().split('\n');
  expect(Math.abs(lines.length - 30)).toBeLessThanOrEqual(5);
  const folder = join(ROOT, '.cache', 'write-a-transport');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  for (const [, name, code] of files) writeFileSync(join(folder, name as string), code as string);
  const compilerOptions = {
    composite: false,
    declaration: false,
    declarationMap: false,
    outDir: 'dist',
    rootDir: '.',
    types: ['node'],
  };
  const config = { extends: '../../tsconfig.base.json', compilerOptions, files: files.map(([, name]) => name) };
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(config));
  const run = (...args: string[]) => {
    const env = { ...process.env, NODE_TEST_CONTEXT: undefined };
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: folder, encoding: 'utf8', env });
    return { status, output: stdout + stderr };
  };
  expect(run(join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', '.')).toEqual({ status: 0, output: '' });
  const { status, output } = run('--test', '--test-reporter=spec', join('dist', 'plain-tcp.test.js'));
  expect({ status, output }).toMatchObject({ status: 0 });
  expect(output).toMatch(/fail 0$/m);
  expect(Number(/pass (\d+)/.exec(output)?.[1])).toBeGreaterThan(30);
}, 300_000);
