import { fstatSync, readFileSync } from 'node:fs';

/** Of this boot of the kernel: inode numbers of memory files count from the start again after each. */
let bootId: string | undefined;

/**
 * Names the file behind a descriptor, the same through every descriptor and in every process of this host:
 * `bootId/device:inode`. Source: proc(5), stat(2).
 *
 * @returns undefined for a descriptor that is none, or where /proc does not tell the boot
 */
export function fileIdentity(fd: number): string | undefined {
  try {
    bootId ??= readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    // Inode numbers have 64 bits.
    const { dev, ino } = fstatSync(fd, { bigint: true });
    return `${bootId}/${dev}:${ino}`;
  } catch {
    return undefined;
  }
}
