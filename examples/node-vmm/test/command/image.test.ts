import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sweepImage } from '@godwit/example-node-vmm/guest';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { NO_KVM, testUnless } from '../machine-kinds.js';

const CLI = fileURLToPath(new URL('../../dist/command/cli.js', import.meta.url));
const testKvm = testUnless(NO_KVM);
const MIB = 2 ** 20;

let folder: string;
let sweep: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-boot-'));
  sweep = join(folder, 'sweep.img');
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The environment of a VMM whose control sockets are in the test's own folder. */
const environment = () => ({ ...process.env, XDG_RUNTIME_DIR: folder });
const vmm = (...args: string[]) =>
  spawnSync(process.execPath, [CLI, ...args], { encoding: 'utf8', env: environment() });

test('`sweep` writes the sweep guest with the given range', () => {
  expect(vmm('sweep', sweep)).toMatchObject({ status: 0, stderr: '' });
  expect(readFileSync(sweep)).toEqual(Buffer.from(sweepImage()));
  expect(vmm('sweep', sweep, '--from', '2M', '--to', '4M', '--passes', '5')).toMatchObject({ status: 0 });
  expect(readFileSync(sweep)).toEqual(Buffer.from(sweepImage({ first: 2 * MIB, end: 4 * MIB, passes: 5 })));
});

test.each([
  [['sweep', 'unused.img', '--to', '512K'], 2, 'sweeps whole pages'],
  [['sweep', 'unused.img', '--to', 'much'], 2, 'It is a size such as'],
  [['--image', 'x', '--memory', '1K'], 2, 'It is from 16 MiB'],
  [['--imgae', 'x'], 2, 'Did you mean --image?'],
  [['--image', '/nonexistent/image'], 2, '--image: the file cannot be read: ENOENT'],
  [['run', '--kernel', '/nonexistent/vmlinuz'], 2, '--kernel: the file cannot be read: ENOENT'],
  [['sweep', '/nonexistent/sweep.img'], 2, 'the image cannot be written: ENOENT'],
  [['--image', 'x', '--vcpus', '2', '--no-kvm'], 2, '--no-kvm, --vcpus: the guest of --image has no use for them'],
  [['--image', 'x', '--order', 'random'], 2, '--order: the guest of --image has no use for it'],
  [['run', '--kernel', 'x', '--dirty-rate', '0'], 2, '--dirty-rate: the guest of --kernel has no use for it'],
])('says what is wrong with %p', (args, code, told) => {
  const { status, stderr } = vmm(...args);
  expect(status).toBe(code);
  expect(stderr).toContain(told);
  expect(stderr).not.toContain('    at ');
});

/** Resolves when the process has printed the text. */
async function prints(child: ChildProcess, text: string): Promise<void> {
  let printed = '';
  for await (const piece of child.stdout ?? []) {
    printed += piece;
    if (printed.includes(text)) return;
  }
  throw new Error(`it ended after "${printed}"`);
}

testKvm('boots an image, shows COM1, and ends when it is interrupted', async () => {
  writeFileSync(sweep, sweepImage({ first: MIB, end: 3 * MIB }));
  const child = spawn(process.execPath, [CLI, '--image', sweep, '--memory', '16M'], { env: environment() });
  await prints(child, 'B');
  const exit = once(child, 'exit');
  child.kill('SIGINT');
  expect(await exit).toEqual([0, null]);
});

testKvm('says how a guest crashed', async () => {
  // lidt of an empty table, then an undefined instruction: a triple fault, or what a KVM that emulates makes of it.
  const crash = join(folder, 'crash.img');
  writeFileSync(crash, Uint8Array.from([0x0f, 0x01, 0x1e, 0x20, 0x7c, 0x0f, 0x0b, ...new Uint8Array(64)]));
  const { status, stderr } = vmm('--image', crash, '--memory', '16M');
  expect(status).toBe(9);
  expect(stderr).toMatch(/^\[vmm\] error: GODWIT_GUEST_CRASHED: vCPU 0 cannot go on: KVM_EXIT_.*rip=0x/m);
});
