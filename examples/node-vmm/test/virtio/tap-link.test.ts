import { execFileSync, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { checkTap } from '@godwit/linux/unstable';
import { expect, test } from '@jest/globals';
import { testUnless } from '../machine-kinds.js';

/** Makes an interface in a network namespace, and runs a command in it. */
const inNamespace = (command: string): readonly string[] => [
  ...['--net', '--user', '--map-root-user', 'sh', '-ec'],
  `ip tuntap add tap0 mode tap; ip addr add 10.9.8.1/24 dev tap0; ip link set tap0 up; ${command}`,
];

/** Why no interface can be made here; undefined where one can. */
function obstacle(): string | undefined {
  const { status, stderr, error } = spawnSync('unshare', inNamespace('true'), { encoding: 'utf8' });
  if (error !== undefined) return `unshare cannot be run: ${error.message}`;
  return status === 0 ? undefined : `no tap interface in a network namespace: ${stderr.trim()}`;
}

testUnless(obstacle())(
  'frames go both ways, one process has the interface at a time, and it is free after a close',
  async () => {
    const script = join(import.meta.dirname, 'tap-process.js');
    const said = execFileSync('unshare', inNamespace(`exec "${process.execPath}" "${script}"`), { encoding: 'utf8' });
    expect(said).toBe('10.9.8.1 GODWIT_DEVICE_BUSY GODWIT_DEVICE_BUSY 10.9.8.1 GODWIT_INVALID_ARGUMENT');
  },
);

test.each(['', 'a name with spaces', 'sixteen-letters-x', '../eth0'])('"%s" is no name of an interface', (name) => {
  expect(() => checkTap(name)).toThrow(expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }));
});

test('an interface that is not there is refused, with how to make it', () => {
  expect(() => checkTap('godwit-none')).toThrow(
    expect.objectContaining({ message: expect.stringContaining('ip tuntap add godwit-none mode tap') }),
  );
});
