import { check } from './call.js';
import { cFunction } from './library.js';

const cGetrlimit = cFunction<[number, Uint8Array], number>('getrlimit', 'int', ['int', 'void *']);

/** asm-generic/resource.h */
export const ResourceLimit = { RLIMIT_FSIZE: 1, RLIMIT_NOFILE: 7, RLIMIT_MEMLOCK: 8, RLIMIT_AS: 9 } as const;

/** The soft limit of this process, `Infinity` when there is none (RLIM_INFINITY, ~0). */
export function resourceLimit(resource: number): number {
  const limit = new BigUint64Array(2);
  check('getrlimit', cGetrlimit(resource, new Uint8Array(limit.buffer)), String(resource));
  const soft = limit[0] as bigint;
  return soft === 0xffff_ffff_ffff_ffffn ? Number.POSITIVE_INFINITY : Number(soft);
}
