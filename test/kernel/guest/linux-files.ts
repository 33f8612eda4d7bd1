import { readFileSync, writeFileSync } from 'node:fs';
import { cpioArchive, FileMode } from '../harness/initramfs.js';
import type { KernelModule } from '../harness/kernel-modules.js';

/** In the environment of the suites: the kernel that the test machine itself runs, its modules, and busybox, which needs no library. */
export const KERNEL_VARIABLE = 'GODWIT_TEST_KERNEL';
export const MODULES_VARIABLE = 'GODWIT_TEST_MODULES';
export const BUSYBOX_VARIABLE = 'GODWIT_TEST_BUSYBOX';
/** In the nested machine: a small kernel with all drivers built in, and the program that a guest runs while it moves (guest_work.c). */
export const SMALL_KERNEL_VARIABLE = 'GODWIT_TEST_SMALL_KERNEL';
export const WORK_VARIABLE = 'GODWIT_TEST_WORK';
/** In the environment of `npm run test:kernel`, and of the suites: how often a Linux guest moves. Default 20. */
export const MOVES_VARIABLE = 'GODWIT_TEST_MOVES';
/** Likewise: shows all that guests and their VMMs say, where it is set. */
export const TRACE_VARIABLE = 'GODWIT_TEST_TRACE';
/** In the nested machine: the command of node-vmm in one file. */
export const VMM_VARIABLE = 'GODWIT_TEST_VMM';

/** Parameters for a kernel that nobody may run for a while, on a busy host: it does not complain of it. */
export const PATIENT = 'nowatchdog rcupdate.rcu_cpu_stall_suppress=1';

/**
 * A shell on a console. `ready` comes before its first prompt, with the seconds since the kernel was started. A line ends with the
 * prompt, so that what a command prints begins a line of its own.
 */
const init = (console: string, modules: readonly KernelModule[]): string => `#!/bin/busybox sh
export PATH=/bin PS1='guest# 
'
/bin/busybox --install -s /bin
mkdir -p /proc /sys /tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
${modules.map(({ name }) => `insmod /modules/${name}.ko`).join('\n')}
exec </dev/${console} >/dev/${console} 2>&1
stty -echo
echo "ready after $(cut -d ' ' -f 1 /proc/uptime) s"
exec setsid sh -c 'exec sh </dev/${console} >/dev/${console} 2>&1'
`;

/** What a guest's first file system has beside busybox and a shell. */
export interface ShellOptions {
  /** Inserted in this order before the shell is there. Default: none. */
  readonly modules?: readonly KernelModule[];
  /** The device of the shell's console. Default `ttyS0`. */
  readonly console?: string;
  /** The path of a program that the guest has as `/bin/guest_work`. Default: none. */
  readonly work?: string;
}

/** Writes a file system with busybox and a shell for a Linux guest to start with. */
export function writeShellInitramfs(path: string, busybox: string, options: ShellOptions = {}): void {
  const { modules = [], console = 'ttyS0', work } = options;
  const files = [
    { path: 'bin', mode: FileMode.FOLDER },
    { path: 'bin/busybox', mode: FileMode.PROGRAM, content: readFileSync(busybox) },
    ...(work === undefined ? [] : [{ path: 'bin/guest_work', mode: FileMode.PROGRAM, content: readFileSync(work) }]),
    { path: 'dev', mode: FileMode.FOLDER },
    { path: 'dev/console', mode: FileMode.CHARACTER_DEVICE, device: [5, 1] as const },
    { path: 'modules', mode: FileMode.FOLDER },
    ...modules.map(({ name, content }) => ({ path: `modules/${name}.ko`, mode: FileMode.FILE, content })),
    { path: 'init', mode: FileMode.PROGRAM, content: Buffer.from(init(console, modules)) },
  ];
  writeFileSync(path, cpioArchive(files));
}
