import { readFileSync } from 'node:fs';
import { GodwitError } from '@godwit/core/errors';
import { ResourceLimit, resourceLimit } from '../libc/index.js';

/** What the host could give to a guest, in bytes. */
export interface HostMemory {
  /** RAM, or what the control group of this process may use of it, plus swap. */
  readonly totalBytes: number;
  /** The kernel's estimate of what can be had without swapping (MemAvailable). */
  readonly availableBytes: number;
}

/**
 * Reads /proc/meminfo and the control group's limit.
 *
 * @example
 * const { availableBytes } = hostMemory();
 * if (byteLength > availableBytes) console.warn('the guest may not fit');
 */
export function hostMemory(): HostMemory {
  const fields = new Map<string, number>();
  for (const line of readFileSync('/proc/meminfo', 'utf8').split('\n')) {
    const match = /^(\w+):\s+(\d+) kB$/.exec(line);
    if (match !== null) fields.set(match[1] as string, Number(match[2]) * 1024);
  }
  const ram = fields.get('MemTotal') ?? 0;
  // 0, or a number near 2^64, when there is no limit.
  const constrained = process.constrainedMemory() ?? 0;
  const usable = constrained > 0 && constrained < ram ? constrained : ram;
  return { totalBytes: usable + (fields.get('SwapTotal') ?? 0), availableBytes: fields.get('MemAvailable') ?? 0 };
}

/**
 * Refuses memory that can never fit, before anything is mapped. The rule:
 *
 * 1. Unless `files` is false, a block larger than RLIMIT_FSIZE is always refused: extending its memory file would kill the process (SIGXFSZ).
 * 2. All blocks together beyond RLIMIT_AS are always refused: the mapping would fail.
 * 3. All blocks together beyond the host's RAM (or the control group's limit) plus swap are refused unless `overcommit`
 *    says that the guest will leave enough of it untouched.
 *
 * What is free at the moment does not count: pages are taken from the host one by one, when they are first touched, and
 * a sparse guest never touches most of them.
 *
 * @throws GodwitError GODWIT_OUT_OF_MEMORY with the sizes and what to do
 */
export function checkFitsHost(
  blockBytes: readonly number[],
  { overcommit = false, files = true }: { readonly overcommit?: boolean; readonly files?: boolean } = {},
  host: HostMemory = hostMemory(),
): void {
  const total = blockBytes.reduce((sum, bytes) => sum + bytes, 0);
  const largest = Math.max(0, ...blockBytes);
  const fileLimit = resourceLimit(ResourceLimit.RLIMIT_FSIZE);
  if (files && largest > fileLimit) {
    throw outOfMemory(
      `a RAM block of ${mib(largest)} is larger than a file may be (${mib(fileLimit)}); raise \`ulimit -f\``,
    );
  }
  const addressLimit = resourceLimit(ResourceLimit.RLIMIT_AS);
  if (total > addressLimit) {
    throw outOfMemory(
      `guest memory of ${mib(total)} exceeds the address space limit of ${mib(addressLimit)}; raise \`ulimit -v\``,
    );
  }
  if (!overcommit && total > host.totalBytes) {
    throw outOfMemory(
      `guest memory of ${mib(total)} can never fit the host's ${mib(host.totalBytes)} of RAM and swap; ` +
        'use a smaller guest, or pass `overcommit: true` for a sparse one',
    );
  }
}

function mib(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`;
}

function outOfMemory(message: string): GodwitError {
  return new GodwitError('GODWIT_OUT_OF_MEMORY', message);
}
