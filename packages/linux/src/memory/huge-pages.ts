import { readFileSync } from 'node:fs';
import { GodwitError } from '@godwit/core/errors';
import { MemfdFlags } from '../libc/index.js';

/**
 * - `transparent`: 2 MiB pages where the kernel finds them. Filling fresh memory is then about eight times as fast as
 *   with 4 KiB pages, at the price that one touched byte takes 2 MiB from the host.
 * - `2MiB`, `1GiB`: from the host's reserved pool (hugetlb). Every page then counts as populated.
 */
export type HugePages = 'transparent' | '2MiB' | '1GiB';

export const TRANSPARENT_HUGE_PAGE_BYTES = 2 ** 21;

const RESERVED = {
  '2MiB': { bytes: 2 ** 21, flags: MemfdFlags.MFD_HUGETLB | MemfdFlags.MFD_HUGE_2MB },
  '1GiB': { bytes: 2 ** 30, flags: MemfdFlags.MFD_HUGETLB | MemfdFlags.MFD_HUGE_1GB },
} as const;

/** Size and `memfd_create` flags of reserved huge pages, or null for ordinary memory. */
export function reservedHugePages(
  kind: HugePages | undefined,
): { readonly bytes: number; readonly flags: number } | null {
  return kind === '2MiB' || kind === '1GiB' ? RESERVED[kind] : null;
}

const SYSFS = '/sys/kernel/mm/transparent_hugepage';

/** What guest memory is made of; see `GuestMemoryOptions.backing`. */
export type MemoryBacking = 'file' | 'anonymous';

/** The settings of the kernel, and the values with which memory that asks for huge pages gets them. */
const SETTINGS = {
  file: {
    name: 'shmem_enabled',
    what: 'memory files',
    turnOn: 'advise',
    on: ['always', 'within_size', 'advise', 'force'],
  },
  anonymous: { name: 'enabled', what: 'anonymous memory', turnOn: 'madvise', on: ['always', 'madvise'] },
} as const;

/**
 * Why guest memory gets no transparent huge pages on this host, or null when it does (if it asks for them).
 * Source: Documentation/admin-guide/mm/transhuge.rst.
 *
 * @example
 * const obstacle = transparentHugePagesObstacle('anonymous');
 * if (obstacle !== null) console.warn(obstacle);
 */
export function transparentHugePagesObstacle(
  backing: MemoryBacking = 'file',
  read: (path: string) => string = readSetting,
): string | null {
  const { name, what, turnOn } = SETTINGS[backing];
  const on: readonly string[] = SETTINGS[backing].on;
  const bySize = selected(read(`${SYSFS}/hugepages-2048kB/${name}`));
  if (on.includes(bySize)) return null;
  const all = selected(read(`${SYSFS}/${name}`));
  if (all === '') return `the kernel has no transparent huge pages for ${what}`;
  // Kernels before 6.8 (anonymous memory) and 6.12 (files) have no setting by size; with one, only `inherit` follows the general setting.
  const follows = bySize === '' || bySize === 'inherit';
  if (follows && on.includes(all)) return null;
  return `they are turned off for ${what}; \`echo ${turnOn} | sudo tee ${SYSFS}/${name}\` turns them on`;
}

/** @throws GodwitError GODWIT_UNSUPPORTED with what to do */
export function requireTransparentHugePages(backing: MemoryBacking): void {
  const obstacle = transparentHugePagesObstacle(backing);
  if (obstacle !== null) throw new GodwitError('GODWIT_UNSUPPORTED', `no transparent huge pages: ${obstacle}`);
}

function selected(setting: string): string {
  return /\[(\w+)\]/.exec(setting)?.[1] ?? '';
}

function readSetting(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
