import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import {
  BUSYBOX_VARIABLE,
  PATIENT,
  SMALL_KERNEL_VARIABLE,
  WORK_VARIABLE,
  writeShellInitramfs,
} from '../guest/linux-files.js';
import { LinuxHost } from '../guest/linux-host.js';
import { MovingLinux } from '../guest/moving-linux.js';
import { ask, type MoveFigures } from '../guest/vmm-control.js';

/** What a Linux in node-vmm says of its own memory: which of it is free, and whether it is a copy's. */

const MINUTES = 60_000;
const MIB = 2 ** 20;
const USED_MIB = 400;
const MOST_SENT_MIB = 130;
const RESEEDED = 'crng reseeded due to virtual machine fork';

let folder: string;
let guest: MovingLinux | undefined;
let copy: LinuxHost | undefined;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'linux-memory-'));
  writeShellInitramfs(join(folder, 'initramfs'), process.env[BUSYBOX_VARIABLE] ?? '', {
    console: 'hvc0',
    work: process.env[WORK_VARIABLE] ?? '',
  });
});
afterEach(async () => {
  for (const host of [guest?.host, copy]) {
    host?.kill();
    await host?.ended;
  }
  guest = undefined;
  copy = undefined;
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const mib = (bytes: number): string => `${(bytes / MIB).toFixed(0)} MiB`;

test(
  `what Linux has used and freed, ${USED_MIB} of 512 MiB, is not sent; and it seeds its random numbers anew in each copy of a snapshot`,
  async () => {
    guest = await MovingLinux.boot(
      folder,
      [
        ...['--kernel', process.env[SMALL_KERNEL_VARIABLE] ?? '', '--initrd', join(folder, 'initramfs')],
        ...['--memory', '512M', '--vcpus', '1', '--console', 'hvc0'],
        ...['--append', `console=ttyS0 quiet panic=-1 ${PATIENT}`],
      ],
      [],
    );
    const source = guest;
    source.host.type(`guest_work memory ${USED_MIB} &`);
    await source.answer('until [ -s /tmp/memory ]; do sleep 0.1; done; echo used', /^(used)\n/m);
    const { machine } = await ask<{ machine: { allocatedBytes: number } }>(source.control, 'status');
    expect(machine.allocatedBytes).toBeGreaterThan(USED_MIB * MIB);
    const moved = await source.move({}, async () => {
      await source.answer('killall guest_work; wait; echo freed', /^(freed)\n/m);
    });
    process.stdout.write(
      `\n512 MiB of which ${mib(machine.allocatedBytes)} were used and ${USED_MIB} MiB freed: ${mib(moved.wireBytes)} sent\n`,
    );
    expect(moved.wireBytes).toBeLessThan(MOST_SENT_MIB * MIB);

    const seeded = 'until dmesg | grep -q "crng init done"; do sleep 0.1; done';
    const count = `echo "reseeded $(dmesg | grep -c "${RESEEDED}")"`;
    // A guest that has moved is no copy.
    expect(await guest.answer(`${seeded}; ${count}`, /^reseeded (\d+)\n/m)).toBe('0');
    const path = join(folder, 'snapshot');
    const saved = await ask<MoveFigures>(guest.control, 'snapshot', { path, quit: true });
    process.stdout.write(`a snapshot of it: ${mib(saved.wireBytes)}\n`);
    expect(await guest.host.ended).toBe(0);

    const random = new Set<string>();
    for (const name of ['first', 'second']) {
      copy = new LinuxHost(['restore', path, '--control', join(folder, `${name}.sock`)]);
      // It is told while it runs already: that is in its log within ten seconds.
      copy.type(`for i in $(seq 100); do dmesg | grep -q "${RESEEDED}" && break; sleep 0.1; done`);
      copy.type(`${count}; echo "random $(head -c 16 /dev/urandom | md5sum)"`);
      const [, times, numbers] = await copy.prints(/^reseeded (\d+)\n[\s\S]*^random (\S+)/m);
      expect(times).toBe('1');
      random.add(numbers as string);
      copy.type('poweroff -f');
      expect(await copy.ended).toBe(0);
    }
    expect(random.size).toBe(2);
  },
  30 * MINUTES,
);
