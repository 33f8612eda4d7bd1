import { readFileSync, writeFileSync } from 'node:fs';
import { cpioArchive, FileMode } from '../harness/initramfs.js';

/** In the environment of the suites: the kernel that the test machine itself runs, and busybox, which needs no library. */
export const KERNEL_VARIABLE = 'GODWIT_TEST_KERNEL';
export const BUSYBOX_VARIABLE = 'GODWIT_TEST_BUSYBOX';

/** Parameters for a kernel that nobody may run for a while, on a busy host: it does not complain of it. */
export const PATIENT = 'nowatchdog rcupdate.rcu_cpu_stall_suppress=1';

/**
 * A shell on the serial port. `ready` comes before its first prompt, with the seconds since the kernel was started. A line ends with the
 * prompt, so that what a command prints begins a line of its own.
 */
const INIT = `#!/bin/busybox sh
export PATH=/bin PS1='guest# 
'
/bin/busybox --install -s /bin
mkdir -p /proc /sys /tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo
echo "ready after $(cut -d ' ' -f 1 /proc/uptime) s"
exec setsid cttyhack sh
`;

/** Writes a file system with busybox and a shell for a Linux guest to start with. */
export function writeShellInitramfs(path: string, busybox: string): void {
  const files = [
    { path: 'bin', mode: FileMode.FOLDER },
    { path: 'bin/busybox', mode: FileMode.PROGRAM, content: readFileSync(busybox) },
    { path: 'dev', mode: FileMode.FOLDER },
    { path: 'dev/console', mode: FileMode.CHARACTER_DEVICE, device: [5, 1] as const },
    { path: 'init', mode: FileMode.PROGRAM, content: Buffer.from(INIT) },
  ];
  writeFileSync(path, cpioArchive(files));
}
