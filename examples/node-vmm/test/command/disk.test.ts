import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { toyKernel } from '../linux/toy-kernel.js';
import { NO_KVM, testUnless } from '../machine-kinds.js';

const CLI = fileURLToPath(new URL('../../dist/command/cli.js', import.meta.url));
const testKvm = testUnless(NO_KVM);
const MIB = 2 ** 20;

let folder: string;
let kernel: string;
let disk: string;
const running: ChildProcess[] = [];

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-disk-'));
  kernel = join(folder, 'kernel');
  disk = join(folder, 'disk.img');
  // It halts.
  writeFileSync(kernel, toyKernel([0xf4, 0xeb, 0xfd]));
  writeFileSync(disk, '');
  truncateSync(disk, MIB);
});
afterEach(async () => {
  await Promise.all(
    running.splice(0).map(async (child) => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
    }),
  );
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const RUN = () => ['run', '--kernel', kernel, '--memory', '32M', '--vcpus', '1'];
const at = (name: string) => ['--control', join(folder, `${name}.sock`)];
const vmm = (...args: string[]) => spawnSync(process.execPath, [CLI, ...args], { encoding: 'utf8' });

/** Starts a VMM, and resolves when it has said this. */
async function started(text: string, ...args: string[]): Promise<ChildProcess> {
  const child = spawn(process.execPath, [CLI, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  running.push(child);
  let said = '';
  for await (const piece of child.stderr.setEncoding('utf8').iterator({ destroyOnReturn: false })) {
    said += piece;
    if (said.includes(text)) {
      child.stderr.resume();
      return child;
    }
  }
  throw new Error(`it ended after "${said}"`);
}

test.each([
  [['--disk', 'x'], 'are for --kernel'],
  [['--net', 'x'], 'are for --kernel'],
  [['--console', 'hvc0'], 'are for --kernel'],
  [['--kernel', 'x', '--console', 'tty9'], 'Allowed choices are ttyS0, hvc0'],
  [['--kernel', 'x', '--disk', ',readonly'], 'It is a file'],
  [['--kernel', 'x', '--disk', ',direct,readonly'], 'It is a file'],
  [['--kernel', 'x', '--net', ''], 'It is the path of a UNIX socket'],
])('run %p is refused', (args, told) => {
  const { status, stderr } = vmm('run', ...args);
  expect(status).toBe(2);
  expect(stderr).toContain(told);
});

testKvm('a disk that is not there, or is in use, ends "run" with a message', async () => {
  const missing = vmm(...RUN(), '--disk', join(folder, 'nowhere'), ...at('missing'));
  expect(missing.status).toBe(2);
  expect(missing.stderr).toContain('create it, or name another');
  await started('the guest runs here', ...RUN(), '--disk', disk, ...at('first'));
  const second = vmm(...RUN(), '--disk', disk, ...at('second'));
  expect(second.status).toBe(5);
  expect(second.stderr).toContain('in use by another VMM');
});

testKvm('a guest moves with its disk, and not to a host that does not name it', async () => {
  const source = await started('the guest runs here', ...RUN(), '--disk', disk, ...at('source'));
  const other = join(folder, 'other.img');
  writeFileSync(other, '');
  truncateSync(other, 2 * MIB);
  for (const [name, given, told] of [
    ['without', [], 'name the file at the destination (--disk FILE)'],
    ['other', ['--disk', other], `the guest's disk has ${MIB} bytes`],
    ['readonly', ['--disk', `${disk},readonly`], 'leave out "readonly"'],
  ] as const) {
    const uri = `unix:${join(folder, `${name}.link`)}`;
    await started('a guest may come', 'receive', uri, ...given, ...at(name));
    const refused = vmm('migrate', uri, ...at('source'));
    expect(refused.stderr).toContain(told);
    expect(refused.status).toBe(5);
  }
  const uri = `unix:${join(folder, 'next.link')}`;
  await started('a guest may come', 'receive', uri, '--disk', disk, ...at('next'));
  const ended = once(source, 'exit');
  const moved = vmm('migrate', uri, ...at('source'));
  expect(`${moved.status} ${moved.stderr}`).toMatch(/^0 /);
  expect((await ended)[0]).toBe(0);
  // The destination has the lock now.
  expect(vmm(...RUN(), '--disk', disk, ...at('third')).stderr).toContain('in use by another VMM');
});
