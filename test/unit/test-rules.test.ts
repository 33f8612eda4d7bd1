import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';

/** The repository; the tests run compiled, in test/dist/unit. */
const ROOT = join(import.meta.dirname, '..', '..', '..');

/** Test files, right and wrong ones, and whether the rules let them pass. */
const FILES: Readonly<Record<string, { text: string; fails?: string }>> = {
  server: {
    text: "import net from 'node:net'; test('x', () => { net.createServer().listen(0); });",
    fails: 'this file left open: TCPServerWrap',
  },
  thread: {
    text: "import { Worker } from 'node:worker_threads'; test('x', () => { new Worker('setInterval(() => {}, 1000)', { eval: true }); });",
    fails: 'this file left open: Worker',
  },
  timer: { text: "test('x', () => { setInterval(() => {}, 1000); });", fails: 'this file left open: Timeout' },
  child: {
    text: "import { spawn } from 'node:child_process'; test('x', () => { spawn('sleep', ['9'], { stdio: 'ignore' }); });",
    fails: 'this file left open: ProcessWrap',
  },
  closed: {
    text: "import net from 'node:net'; test('x', () => { const s = net.createServer().listen(0, () => s.close()); });",
  },
  skip: {
    text: "test('x', () => {}); test.skip('says nothing', () => {});",
    fails: 'skip.test.js: says nothing  ✗ its name does not say why',
  },
  reason: { text: "test('x', () => {}); test.skip('says why (skipped: no such device)', () => {});" },
};

let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-test-rules-'));
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('tests under the settings of this repository', () => {
  let output: string;
  let tally: { passed: number; failed: number; skipped: string[] };
  let status: number | null;

  beforeAll(async () => {
    for (const [name, { text }] of Object.entries(FILES)) writeFileSync(join(folder, `${name}.test.js`), text);
    const { default: settings } = await import(join(ROOT, 'jest.config.js'));
    const config = JSON.parse(JSON.stringify(settings).replaceAll('<rootDir>/tools', `${ROOT}/tools`));
    config.rootDir = folder;
    config.testMatch = ['<rootDir>/*.test.js'];
    const tallyFile = join(folder, 'tally.jsonl');
    const run = spawnSync(
      process.execPath,
      ['--experimental-vm-modules', join(ROOT, 'node_modules/jest/bin/jest.js'), '--config', JSON.stringify(config)],
      { cwd: ROOT, encoding: 'utf8', env: { ...process.env, TALLY_FILE: tallyFile } },
    );
    status = run.status;
    output = run.stdout + run.stderr;
    tally = JSON.parse(readFileSync(tallyFile, 'utf8'));
  }, 60_000);

  test.each(Object.entries(FILES))('%s', (name, { fails }) => {
    const leaks = fails?.startsWith('this file left open') ?? false;
    expect(output).toMatch(new RegExp(`^${leaks ? 'FAIL' : 'PASS'} .*${name}\\.test\\.js`, 'm'));
    if (fails !== undefined) expect(output).toContain(fails);
  });

  test('each of them fails the run and is counted', () => {
    expect(status).not.toBe(0);
    const leaks = Object.values(FILES).filter(({ fails }) => fails?.startsWith('this file left open'));
    expect(tally.failed).toBe(leaks.length + 1);
    expect(tally.skipped).toEqual(['reason.test.js: says why (skipped: no such device)', 'skip.test.js: says nothing']);
  });
});

test('the files that are started first are there', async () => {
  const { LONG } = (await import(join(ROOT, 'tools/jest/longest-first.js'))) as { LONG: readonly string[] };
  expect(LONG.length).toBeGreaterThan(5);
  expect(LONG.filter((path) => !existsSync(join(ROOT, path)))).toEqual([]);
});

describe('what was built from sources that are gone', () => {
  test('is deleted; everything else stays', () => {
    plant('tsconfig.json', '{ "references": [{ "path": "a" }, { "path": "a/test" }] }');
    plant('a/tsconfig.json', '{ "compilerOptions": { "rootDir": "src", "outDir": "dist" } }');
    plant('a/test/tsconfig.json', '{ "compilerOptions": { "rootDir": ".", "outDir": "../dist-test" } }');
    for (const suffix of ['js', 'js.map', 'd.ts', 'd.ts.map']) {
      plant(`a/dist/deep/kept.${suffix}`, '');
      plant(`a/dist/deep/gone.${suffix}`, '');
    }
    plant('a/src/deep/kept.ts', '');
    plant('a/dist/guest.bin', '');
    plant('a/dist-test/kept.test.js', '');
    plant('a/dist-test/gone.test.js', '');
    plant('a/test/kept.test.ts', '');

    const run = spawnSync(process.execPath, [join(ROOT, 'tools/prune-stale-output.js'), folder], { encoding: 'utf8' });

    expect(run.stdout).toBe('');
    expect(run.stderr.trimEnd().split('\n')).toHaveLength(5);
    for (const path of ['dist/deep/gone.js', 'dist/deep/gone.d.ts.map', 'dist-test/gone.test.js']) {
      expect(existsSync(join(folder, 'a', path))).toBe(false);
    }
    for (const path of ['dist/deep/kept.js', 'dist/deep/kept.d.ts.map', 'dist/guest.bin', 'dist-test/kept.test.js']) {
      expect(existsSync(join(folder, 'a', path))).toBe(true);
    }
  });
});

function plant(path: string, text: string): void {
  mkdirSync(dirname(join(folder, path)), { recursive: true });
  writeFileSync(join(folder, path), text);
}
