import { createHash, randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { BUSYBOX_VARIABLE, MODULES_VARIABLE } from '../guest/linux-files.js';
import { answer, ShellGuests } from '../guest/shell-guests.js';
import { debianModules } from '../harness/kernel-modules.js';

/**
 * Debian's kernel in node-vmm, nested in a machine that is emulated, with Linux's own drivers of virtio: a shell on the virtio console,
 * and a disk that is read and written while the guest moves between processes.
 */

const MINUTES = 60_000;
const MIB = 2 ** 20;
const DISK_BYTES = 4 * MIB;
/** Where the guest writes while it moves: the last MiB. Before it is what the host has put there. */
const SCRATCH_AT = 3;
const MODULES = ['virtio_mmio', 'virtio_blk', 'virtio-rng'];

let guests: ShellGuests;
let disk: string;

beforeAll(async () => {
  const folderOfModules = process.env[MODULES_VARIABLE] ?? '';
  const busybox = process.env[BUSYBOX_VARIABLE] ?? '';
  const tree = { modules: folderOfModules, release: basename(folderOfModules), program: () => busybox };
  guests = new ShellGuests({ console: 'hvc0', modules: await debianModules(tree, MODULES) });
  disk = join(guests.folder, 'disk.img');
}, 10 * MINUTES);
afterEach(() => guests.kill());
afterAll(() => guests.close());

const md5 = (bytes: Uint8Array): string => createHash('md5').update(bytes).digest('hex');

test(
  'a Linux uses its console, its source of random bytes and its disk, and moves while it writes the disk',
  async () => {
    const content = randomBytes(DISK_BYTES);
    writeFileSync(disk, content);
    const source = await guests.boot('a', 1, '--disk', disk);
    expect(await answer(source, 'echo "is $((6 * 7))"', /^is (\d+)\n/m)).toBe('42');
    expect(await answer(source, 'echo "sectors $(cat /sys/block/vda/size)"', /^sectors (\d+)\n/m)).toBe(
      String(DISK_BYTES / 512),
    );
    expect(await answer(source, 'md5sum /dev/vda', /^([0-9a-f]{32}) /m)).toBe(md5(content));
    expect(await answer(source, 'echo "random $(head -c 32 /dev/hwrng | wc -c)"', /^random (\d+)\n/m)).toBe('32');
    expect(await answer(source, 'echo "from $(cat /sys/class/misc/hw_random/rng_current)"', /^from (\S+)\n/m)).toMatch(
      /virtio/,
    );
    // It writes blocks of its own, straight to the disk and back, and counts what it does not find again.
    source.type('head -c 65536 /dev/urandom >/tmp/block; : >/tmp/bad; echo 0 >/tmp/rounds');
    const rewrite = [
      'i=0; while [ ! -e /tmp/stop ]; do',
      `dd if=/tmp/block of=/dev/vda bs=64k seek=$((${SCRATCH_AT} * 16 + i % 16)) conv=notrunc,fsync 2>/dev/null;`,
      'echo 3 >/proc/sys/vm/drop_caches;',
      `dd if=/dev/vda bs=64k skip=$((${SCRATCH_AT} * 16 + i % 16)) count=1 2>/dev/null | cmp -s - /tmp/block || echo $i >>/tmp/bad;`,
      'i=$((i + 1)); echo $i >/tmp/rounds; done',
    ].join(' ');
    source.type(`(${rewrite}) &`);

    // A destination without the disk refuses, and the guest runs on here.
    await guests.awaiting('x');
    await expect(guests.move('a', 'x')).rejects.toThrow('--disk FILE');
    const before = Number(await answer(source, 'echo "rounds $(cat /tmp/rounds)"', /^rounds (\d+)\n/m));

    const next = await guests.awaiting('b', '--disk', disk);
    await guests.move('a', 'b');
    expect(await source.ended).toBe(0);
    next.type('touch /tmp/stop; wait');
    const after = Number(await answer(next, 'echo "rounds $(cat /tmp/rounds)"', /^rounds (\d+)\n/m));
    expect(after).toBeGreaterThan(before);
    expect(await answer(next, 'echo "bad $(wc -l </tmp/bad)"', /^bad (\d+)\n/m)).toBe('0');
    expect(
      await answer(next, 'echo "complaints $(dmesg | grep -cE "BUG|WARNING|I/O error")"', /^complaints (\d+)\n/m),
    ).toBe('0');
    next.type('sync; echo 3 >/proc/sys/vm/drop_caches');
    const sum = await answer(next, 'md5sum /dev/vda', /^([0-9a-f]{32}) /m);
    next.type('poweroff -f');
    expect(await next.ended).toBe(0);
    const left = readFileSync(disk);
    expect(md5(left)).toBe(sum);
    expect(left.subarray(0, SCRATCH_AT * MIB).equals(content.subarray(0, SCRATCH_AT * MIB))).toBe(true);
  },
  30 * MINUTES,
);
