import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import {
  BUSYBOX_VARIABLE,
  KERNEL_VARIABLE,
  MODULES_VARIABLE,
  PATIENT,
  writeShellInitramfs,
} from '../guest/linux-files.js';
import { LinuxHost } from '../guest/linux-host.js';
import { ask, PATIENCE } from '../guest/vmm-control.js';
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

let folder: string;
let disk: string;
const kernel = process.env[KERNEL_VARIABLE] ?? '';
const hosts: LinuxHost[] = [];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'virtio-guest-'));
  disk = join(folder, 'disk.img');
  const busybox = process.env[BUSYBOX_VARIABLE] ?? '';
  const folderOfModules = process.env[MODULES_VARIABLE] ?? '';
  const tree = { modules: folderOfModules, release: basename(folderOfModules), program: () => busybox };
  const modules = await debianModules(tree, MODULES);
  writeShellInitramfs(join(folder, 'initramfs'), busybox, { console: 'hvc0', modules });
}, 10 * MINUTES);
afterEach(async () => {
  const running = hosts.splice(0);
  for (const host of running) host.kill();
  await Promise.all(running.map(({ ended }) => ended));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function host(name: string, ...args: string[]): LinuxHost {
  const started = new LinuxHost([args[0] as string, ...args.slice(1), '--control', join(folder, `${name}.sock`)]);
  hosts.push(started);
  return started;
}

/** Asks the VMM at `from` to move its guest. */
function migrate(from: string, to: string): Promise<unknown> {
  return ask(join(folder, `${from}.sock`), 'migrate', { to, ...PATIENCE });
}

async function answer(guest: LinuxHost, command: string, pattern: RegExp): Promise<string> {
  guest.type(command);
  return (await guest.prints(pattern))[1] as string;
}

const md5 = (bytes: Uint8Array): string => createHash('md5').update(bytes).digest('hex');

test(
  'a Linux uses its console, its source of random bytes and its disk, and moves while it writes the disk',
  async () => {
    const content = randomBytes(DISK_BYTES);
    writeFileSync(disk, content);
    const source = host(
      'a',
      ...['run', '--kernel', kernel, '--initrd', join(folder, 'initramfs'), '--vcpus', '1', '--memory', '192M'],
      ...['--disk', disk, '--console', 'hvc0', '--append', `console=ttyS0 quiet panic=-1 ${PATIENT}`],
    );
    await source.prints(/ready after [\d.]+ s/);
    await source.prints(/guest# /);
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
    const unable = host('x', 'receive', `unix:${join(folder, 'x.link')}`, '--once');
    await unable.says(/a guest may come/);
    await expect(migrate('a', `unix:${join(folder, 'x.link')}`)).rejects.toThrow('--disk FILE');
    const before = Number(await answer(source, 'echo "rounds $(cat /tmp/rounds)"', /^rounds (\d+)\n/m));

    const next = host('b', 'receive', `unix:${join(folder, 'b.link')}`, '--once', '--disk', disk);
    await next.says(/a guest may come/);
    await migrate('a', `unix:${join(folder, 'b.link')}`);
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
