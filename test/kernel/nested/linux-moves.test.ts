import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import {
  BUSYBOX_VARIABLE,
  MOVES_VARIABLE,
  PATIENT,
  SMALL_KERNEL_VARIABLE,
  WORK_VARIABLE,
  writeShellInitramfs,
} from '../guest/linux-files.js';
import { MovingLinux } from '../guest/moving-linux.js';
import { GUEST_ADDRESS, PingPeer } from '../guest/ping-peer.js';

/**
 * A Linux with virtio devices in node-vmm, nested in a machine that is emulated: it checks memory, timers on both processors, and a disk,
 * and answers pings, while it moves there and back over TCP in every way there is.
 */

const MINUTES = 60_000;
const VCPUS = 2;
/** There and back. */
const MOVES = Number(process.env[MOVES_VARIABLE] ?? 20);
const DISK_BLOCKS = 96;
const BLOCK_BYTES = 4096;
/** The last blocks of the disk, which the guest writes over and over. */
const WRITTEN_BLOCKS = 32;
const CHECKED_MIB = 4;
const PING_MS = 250;
/** What a kernel or guest_work prints when something is wrong with it, or with the time. */
const COMPLAINTS = 'BUG|WARNING|Oops|rror|stall|lockup|hung|blocked for|nstable|backwards|Call Trace|DEFECT';

const WAYS: readonly (readonly [name: string, request: object])[] = [
  ['pre-copy', {}],
  ['pre-copy, 2 channels', { pageChannels: 2 }],
  ['post-copy', { postcopy: true }],
  ['post-copy, 2 channels', { postcopy: true, pageChannels: 2 }],
];

let folder: string;
let guest: MovingLinux | undefined;
let peer: PingPeer | undefined;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'linux-moves-'));
  writeShellInitramfs(join(folder, 'initramfs'), process.env[BUSYBOX_VARIABLE] ?? '', {
    console: 'hvc0',
    work: process.env[WORK_VARIABLE] ?? '',
  });
});
afterEach(async () => {
  guest?.host.kill();
  await guest?.host.ended;
  await peer?.close();
  guest = undefined;
  peer = undefined;
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function boot(disk: string, net: readonly string[]): Promise<MovingLinux> {
  return MovingLinux.boot(
    folder,
    [
      ...['--kernel', process.env[SMALL_KERNEL_VARIABLE] ?? '', '--initrd', join(folder, 'initramfs')],
      ...['--memory', '64M', '--vcpus', String(VCPUS), '--console', 'hvc0'],
      ...['--append', `console=ttyS0 quiet panic=-1 ${PATIENT}`],
    ],
    ['--disk', disk, ...net],
  );
}

const say = (text: string): void => void process.stdout.write(`${text}\n`);
const ms = (value: number): string => `${Math.round(value)} ms`;

test(
  `Linux on ${VCPUS} vCPUs works on while it moves ${MOVES} times, and leaves the disk of one that has not moved`,
  async () => {
    const disk = join(folder, 'moved.img');
    const untouched = Buffer.alloc(DISK_BLOCKS * BLOCK_BYTES);
    for (let i = 0; i < untouched.length; i += 4) untouched.writeUInt32LE(Math.imul(i, 0x9e3779b1) >>> 0, i);
    writeFileSync(disk, untouched);
    const socket = join(folder, 'net.sock');
    peer = new PingPeer(socket, PING_MS);

    const started = performance.now();
    guest = await boot(disk, ['--net', socket]);
    const bootMs = performance.now() - started;
    expect(await guest.answer('echo "cpus $(nproc)"', /^cpus (\d+)\n/m)).toBe(String(VCPUS));
    const ready = Number(await guest.answer('echo "up $(cut -d " " -f 1 /proc/uptime)"', /^up ([\d.]+)\n/m));
    say('');
    say('inside the emulated test machine   here        Firecracker, as published (hardware KVM)');
    say(`from "vmm run" to a shell          ${ms(bootMs).padEnd(12)}125 ms`);
    say(`of it by the guest's clock         ${ms(ready * 1000)}`);
    say(`memory of the VMM                  ${guest.ownMemoryMib().toFixed(0).padStart(4)} MiB    at most 5 MiB`);

    guest.host.type(`ip addr add ${GUEST_ADDRESS.join('.')}/24 dev eth0; ip link set eth0 up`);
    await peer.answered(3);
    guest.host.type(
      `guest_work memory ${CHECKED_MIB} & guest_work timers ${VCPUS} & guest_work disk /dev/vda ${WRITTEN_BLOCKS} &`,
    );
    await guest.answer(
      'until [ -s /tmp/memory -a -s /tmp/timers -a -s /tmp/disk ]; do sleep 0.1; done; echo all',
      /^(all)\n/m,
    );
    const logged = Number(await guest.answer('echo "log $(dmesg | wc -l)"', /^log (\d+)\n/m));
    let before = await guest.worksOn(await guest.figures());
    peer.takeLongestGapMs();

    for (let i = 0; i < MOVES; i++) {
      const [name, request] = WAYS[i % WAYS.length] as (typeof WAYS)[number];
      const begun = performance.now();
      const moved = await guest.move(request);
      await peer.answered(1);
      const after = await guest.worksOn(before);
      expect(after.defects).toBe(0);
      expect(after.uptime).toBeGreaterThan(before.uptime);
      say(
        `move ${String(i + 1).padStart(2)}, ${name.padEnd(21)}: ${moved.rounds} rounds, ${ms(moved.totalMs)}; downtime ` +
          `${ms(moved.downtimeMs)}, longest gap of pings ${ms(peer.takeLongestGapMs())}; ` +
          `memory round ${after.memoryRounds}, block ${after.diskRounds}, sleeps ${after.sleeps.join(' ')}, ` +
          `uptime +${(after.uptime - before.uptime).toFixed(2)} of ${((performance.now() - begun) / 1000).toFixed(2)} s`,
      );
      before = after;
    }
    expect(peer.announcements).toBeGreaterThanOrEqual(MOVES);
    guest.host.type('killall -TERM guest_work; wait');
    const rounds = await guest.answer(
      'until grep -q ended /tmp/disk; do sleep 0.1; done; cat /tmp/disk',
      /^rounds=(\d+) passes=\d+ sum=[\da-f]+ defects=0 ended/m,
    );
    // All that its kernel and the work have said since they began: nothing, on a quiet day.
    const log = await guest.answer(`dmesg | tail -n +${logged + 1}; echo "log end"`, /^([\s\S]*)log end\n/);
    expect(log).not.toMatch(new RegExp(COMPLAINTS));
    guest.host.type('poweroff -f');
    expect(await guest.host.ended).toBe(0);

    const other = join(folder, 'unmoved.img');
    writeFileSync(other, untouched);
    guest = await boot(other, []);
    guest.host.type(`guest_work disk /dev/vda ${WRITTEN_BLOCKS} ${rounds}; poweroff -f`);
    expect(await guest.host.ended).toBe(0);
    expect(readFileSync(disk).equals(readFileSync(other))).toBe(true);
    expect(readFileSync(disk).equals(untouched)).toBe(false);
  },
  30 * MINUTES,
);
