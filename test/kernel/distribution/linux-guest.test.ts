import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import type { LinuxHost } from '../guest/linux-host.js';
import { answer, KERNEL, ShellGuests } from '../guest/shell-guests.js';

/**
 * node-vmm boots Debian's kernel, nested in a machine that is emulated, to a shell on its serial port, and moves it between processes
 * while it works.
 */

const MINUTES = 60_000;
const MD5 = /^([0-9a-f]{32}) /m;

let guests: ShellGuests;
beforeAll(() => {
  guests = new ShellGuests();
});
afterEach(() => guests.kill());
afterAll(() => guests.close());

/** Moves the guest of `from` to a process of its own. */
async function moved(from: string, to: string): Promise<LinuxHost> {
  const next = await guests.awaiting(to);
  await guests.move(from, to);
  return next;
}

/** Seconds since the guest's kernel was started, by its own clock. */
async function uptime(guest: LinuxHost): Promise<number> {
  guest.type('echo "up $(cut -d " " -f 1 /proc/uptime)"');
  return Number((await guest.prints(/^up ([\d.]+)\n/m))[1]);
}

/** How often its shell has counted. */
async function count(guest: LinuxHost): Promise<number> {
  return Number(await answer(guest, 'echo "at $(cat /tmp/count)"', /^at (\d+)\n/m));
}

const patientTest = (name: string, run: () => Promise<void>): void => test(name, run, 20 * MINUTES);

patientTest('boots to a shell, works while it moves, and switches itself off', async () => {
  const source = await guests.boot('a', 1);
  // What is typed is computed there, and not only echoed.
  expect(await answer(source, 'echo "is $((6 * 7))"', /^is (\d+)\n/m)).toBe('42');
  expect(KERNEL).toContain(await answer(source, 'echo "on $(uname -r)"', /^on (\S+)\n/m));
  const sum = await answer(source, 'head -c 8000000 /dev/urandom >/tmp/file; md5sum /tmp/file', MD5);
  source.type('(i=0; while :; do i=$((i + 1)); echo $i >/tmp/count; done) &');
  const before = { uptime: await uptime(source), count: await count(source) };

  const guest = await moved('a', 'b');
  expect(await source.ended).toBe(0);
  expect(await uptime(guest)).toBeGreaterThanOrEqual(before.uptime);
  expect(await count(guest)).toBeGreaterThan(before.count);
  expect(await answer(guest, 'md5sum /tmp/file', MD5)).toBe(sum);
  const clocks = '/sys/devices/system/clocksource/*/current_clocksource';
  expect(await answer(guest, `echo "clock $(cat ${clocks})"`, /^clock (\S+)\n/m)).toBe('kvm-clock');
  expect(await answer(guest, 'echo "complaints $(dmesg | grep -cE "BUG|WARNING")"', /^complaints (\d+)\n/m)).toBe('0');
  guest.type('poweroff -f');
  expect(await guest.ended).toBe(0);
  expect(guest.messages).toContain('the guest has shut itself down');
});

/** Counts on each processor in turn, and says so. */
const COUNT_ON_BOTH =
  'for n in 0 1; do taskset $((1 << n)) sh -c "i=0; while [ \\$i -lt 2000 ]; do i=\\$((i + 1)); done; echo done $n"; done';

patientTest('two vCPUs: both work, here and after a move, and a reset ends the guest', async () => {
  const source = await guests.boot('c', 2);
  expect(await answer(source, 'echo "cpus $(nproc)"', /^cpus (\d+)\n/m)).toBe('2');
  source.type(COUNT_ON_BOTH);
  await source.prints(/^done 1\n/m);
  const before = await uptime(source);
  const guest = await moved('c', 'd');
  expect(await uptime(guest)).toBeGreaterThanOrEqual(before);
  guest.type(COUNT_ON_BOTH);
  await guest.prints(/^done 1\n/m);
  guest.type('reboot -f');
  expect(await guest.ended).toBe(0);
  expect(guest.messages).toContain('asked for a reset');
});
