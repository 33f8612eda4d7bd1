import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';

/** The repository; the tests run compiled, in test/dist/unit. */
const ROOT = join(import.meta.dirname, '..', '..', '..');

/** Every kind of import that the check must report, each written to a file of its own, with the rule that it breaks. */
const PLANTED: readonly { file: string; text: string; rule: string }[] = [
  // Imports against the arrows.
  { file: 'packages/core/src/node.ts', text: "import { readFileSync } from 'node:fs';", rule: 'core-imports' },
  { file: 'packages/core/src/node-type.ts', text: "import type { Socket } from 'node:net';", rule: 'core-imports' },
  { file: 'packages/core/src/node-bare.ts', text: "import { join } from 'path';", rule: 'core-imports' },
  { file: 'packages/core/src/koffi.ts', text: "import koffi from 'koffi';", rule: 'core-imports' },
  { file: 'packages/core/src/up.ts', text: "import { x } from '@godwit/transport';", rule: 'core-imports' },
  { file: 'packages/core/src/up-type.ts', text: "import type { X } from '@godwit/linux';", rule: 'core-imports' },
  { file: 'packages/core/src/up-from.ts', text: "export { x } from '@godwit/transport';", rule: 'core-imports' },
  { file: 'packages/core/src/up-star.ts', text: "export * from '@godwit/transport';", rule: 'core-imports' },
  { file: 'packages/core/src/up-type-from.ts', text: "export type { X } from '@godwit/linux';", rule: 'core-imports' },
  { file: 'packages/core/src/up-later.ts', text: "await import('@godwit/linux');", rule: 'core-imports' },
  { file: 'packages/core/src/up-effect.ts', text: "import '@godwit/linux';", rule: 'core-imports' },
  { file: 'packages/core/src/itself.ts', text: "import { x } from '@godwit/core';", rule: 'core-imports' },
  { file: 'packages/transport/src/side.ts', text: "import { x } from '@godwit/linux';", rule: 'transport-imports' },
  { file: 'packages/transport/src/koffi.ts', text: "import koffi from 'koffi';", rule: 'transport-imports' },
  { file: 'packages/linux/src/side.ts', text: "import type { X } from '@godwit/transport';", rule: 'linux-imports' },
  { file: 'packages/linux/src/pack.ts', text: "import { pack } from 'msgpackr';", rule: 'linux-imports' },
  { file: 'packages/linux/src/top.ts', text: "import { x } from 'godwit';", rule: 'linux-imports' },
  { file: 'packages/godwit/src/pack.ts', text: "import { pack } from 'msgpackr';", rule: 'godwit-imports' },
  { file: 'packages/observe/src/side.ts', text: "import { x } from '@godwit/transport';", rule: 'observe-imports' },
  { file: 'packages/observe/src/page/node.ts', text: "import { readFileSync } from 'node:fs';", rule: 'page-imports' },
  { file: 'packages/observe/src/page/core.ts', text: "import { migrate } from '@godwit/core';", rule: 'page-imports' },
  { file: 'packages/observe/test/side.ts', text: "import '@godwit/transport';", rule: 'observe-test-imports' },
  { file: 'packages/core/test/up.ts', text: "import { x } from '@godwit/linux';", rule: 'core-test-imports' },
  { file: 'packages/transport/test/side.ts', text: "import '@godwit/linux';", rule: 'transport-test-imports' },
  { file: 'packages/linux/test/side.ts', text: "import '@godwit/transport';", rule: 'linux-test-imports' },
  // Imports of examples and tests, which nothing may import.
  {
    file: 'packages/linux/src/example.ts',
    text: "import type { X } from '@godwit/example-node-vmm';",
    rule: 'examples-are-leaves',
  },
  {
    file: 'examples/other/src/example.ts',
    text: "import { x } from '@godwit/example-node-vmm';",
    rule: 'no-example-from-another',
  },
  { file: 'examples/node-vmm/src/test.ts', text: "import '../../../test/planted.js';", rule: 'nobody-imports-tests' },
  // Imports of internals, by a path or around `exports`.
  {
    file: 'packages/linux/src/path.ts',
    text: "import type { x } from '../../core/src/index.js';",
    rule: 'not-by-path',
  },
  { file: 'packages/linux/src/built.ts', text: "import { x } from '../../core/dist/index.js';", rule: 'not-by-path' },
  { file: 'packages/core/test/path.ts', text: "import { x } from '../src/index.js';", rule: 'not-by-path' },
  { file: 'test/path.ts', text: "export * from '../packages/core/src/index.js';", rule: 'not-by-path' },
  {
    file: 'examples/node-vmm/test/path.ts',
    text: "import { x } from '../../../packages/core/src/index.js';",
    rule: 'not-by-path-from-example-tests',
  },
  {
    file: 'packages/linux/src/internal.ts',
    text: "import { x } from '@godwit/core/dist/memory/dirty-bitmap.js';",
    rule: 'not-into-internals',
  },
  { file: 'packages/core/src/seam.ts', text: "import { x } from './testing/index.js';", rule: 'testing-is-for-tests' },
  // Circles: between two files, type-only, by export ... from, and by import().
  { file: 'packages/core/src/circle/one.ts', text: "import { two } from './two.js';", rule: 'no-circle' },
  { file: 'packages/core/src/circle/two.ts', text: "import { one } from './one.js';", rule: 'no-circle' },
  { file: 'packages/core/src/types/one.ts', text: "import type { Two } from './two.js';", rule: 'no-circle' },
  { file: 'packages/core/src/types/two.ts', text: "import type { One } from './one.js';", rule: 'no-circle' },
  { file: 'packages/linux/src/from/one.ts', text: "export { two } from './two.js';", rule: 'no-circle' },
  { file: 'packages/linux/src/from/two.ts', text: "export type { One } from './one.js';", rule: 'no-circle' },
  { file: 'packages/linux/src/later/one.ts', text: "await import('./two.js');", rule: 'no-circle' },
  { file: 'packages/linux/src/later/two.ts', text: "await import('./one.js');", rule: 'no-circle' },
];

/** Allowed imports, which the check must not report. */
const ALLOWED: readonly { file: string; text: string }[] = [
  { file: 'packages/core/src/ok.ts', text: "import { Observable } from 'rxjs'; import './ok-too.js';" },
  { file: 'packages/core/src/ok-too.ts', text: 'export {};' },
  { file: 'packages/core/test/ok.ts', text: "import '@godwit/core/testing'; import 'fast-check'; import 'node:fs';" },
  { file: 'packages/transport/src/ok.ts', text: "import '@godwit/core'; import 'msgpackr'; import 'node:net';" },
  { file: 'packages/linux/src/ok.ts', text: "import '@godwit/core'; import 'koffi'; import 'node:fs';" },
  { file: 'packages/godwit/src/ok.ts', text: "export * from '@godwit/linux'; import '@godwit/transport';" },
  { file: 'examples/node-vmm/src/ok.ts', text: "import '@godwit/linux'; import '@godwit/transport';" },
  { file: 'test/ok.ts', text: "import '@godwit/example-node-vmm'; import '@godwit/core/testing';" },
  { file: 'bench/ok.ts', text: "import '@godwit/example-node-vmm';" },
];

interface Violation {
  readonly from: string;
  readonly rule: { readonly name: string };
}

let copy: string;
let violations: readonly Violation[];

beforeAll(() => {
  copy = mkdtempSync(join(tmpdir(), 'godwit-arrows-'));
  for (const name of ['package.json', 'tools/arrows.js']) cpSync(join(ROOT, name), join(copy, name));
  for (const workspace of [
    'packages/core',
    'packages/transport',
    'packages/linux',
    'packages/godwit',
    'examples/node-vmm',
  ]) {
    const manifest = JSON.parse(readFileSync(join(ROOT, workspace, 'package.json'), 'utf8'));
    plant(`${workspace}/package.json`, JSON.stringify(manifest));
    for (const entry of Object.values<{ default: string }>(manifest.exports)) {
      plant(join(workspace, entry.default), 'export {};');
      plant(join(workspace, entry.default.replace('/dist/', '/src/').replace('.js', '.ts')), 'export {};');
    }
    link(join(copy, workspace), manifest.name);
  }
  for (const name of readdirSync(join(ROOT, 'node_modules'))) {
    if (!['@godwit', 'godwit'].includes(name) && !name.startsWith('.')) link(join(ROOT, 'node_modules', name), name);
  }
  plant('packages/core/dist/memory/dirty-bitmap.js', 'export {};');
  plant('test/planted.ts', 'export {};');
  plant('bench/planted.ts', 'export {};');
  for (const { file, text } of [...PLANTED, ...ALLOWED]) plant(file, text);

  const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  const [command, ...args] = scripts['check:arrows'].split(' ');
  const run = spawnSync(join(ROOT, 'node_modules', '.bin', command), [...args, '--output-type', 'json'], {
    cwd: copy,
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  });
  if (run.stdout === '') throw new Error(`the check printed nothing: ${run.stderr}`);
  violations = JSON.parse(run.stdout).summary.violations;
}, 30_000);

afterAll(() => rmSync(copy, { recursive: true, force: true }));

test.each(PLANTED)('$file breaks $rule', ({ file, rule }) => {
  const broken = violations.filter(({ from }) => from === file).map((violation) => violation.rule.name);
  // The check names one file of a circle; any file of this circle is right.
  if (rule === 'no-circle') {
    const circles = violations.filter(({ from }) => dirname(from) === dirname(file));
    broken.push(...circles.map((violation) => violation.rule.name));
  }
  expect(broken).toContain(rule);
});

test('imports along the arrows are not minded', () => {
  const minded = violations.filter(({ from }) => !PLANTED.some(({ file }) => file === from));
  expect(minded).toEqual([]);
});

test('violations make the command fail', () => {
  const run = spawnSync('npm', ['run', 'check:arrows'], { cwd: copy, encoding: 'utf8' });
  expect(run.status).not.toBe(0);
  expect(run.stdout).toContain('dependency violations');
}, 30_000);

function plant(file: string, text: string): void {
  mkdirSync(dirname(join(copy, file)), { recursive: true });
  writeFileSync(join(copy, file), `${text}\n`);
}

function link(target: string, name: string): void {
  const path = join(copy, 'node_modules', name);
  mkdirSync(dirname(path), { recursive: true });
  symlinkSync(target, path);
}
