import { MAXIMUM_VCPUS, PAGE_SIZE, RAM_LOW_LIMIT } from '../guest/layout.js';
import type { RamSizes } from '../guest/working-set.js';
import { MAX_MEMORY_BYTES, MIN_MEMORY_BYTES } from '../machine/memory-map.js';

/**
 * What guest to build: chosen on the command line, sent to the destination as the migration's description. The
 * destination builds a machine of the same shape from it, so it is checked like anything else that a peer sends.
 */
export interface GuestSpec {
  readonly kind: 'kvm' | 'software';
  readonly memoryBytes: number;
  readonly vcpus: number;
  /** Page writes per second over all vCPUs; 0 is as fast as it can. */
  readonly dirtyPagesPerSecond: number;
  readonly workingSetBytes: number;
  readonly order: 'sequential' | 'random';
  /** Write every byte of a page, not just its stamps. */
  readonly wholePages: boolean;
  readonly heartbeatMs: number;
}

/** The guest's RAM below the PCI hole and above 4 GiB. */
export function ramSizes(memoryBytes: number): RamSizes {
  const low = Math.min(memoryBytes, RAM_LOW_LIMIT);
  return { low, high: memoryBytes - low };
}

/** Takes apart a description that came over the network. Throws a `TypeError` that names what is wrong. */
export function guestSpecFrom(description: unknown): GuestSpec {
  if (typeof description !== 'object' || description === null)
    throw new TypeError('the description of the guest is not an object');
  const given = description as Readonly<Record<string, unknown>>;
  const integer = (name: string, least: number, most: number): number => {
    const value = given[name];
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= least && value <= most) return value;
    throw new TypeError(`the description's ${name} must be an integer from ${least} to ${most}, got ${String(value)}`);
  };
  const oneOf = <T extends string>(name: string, values: readonly T[]): T => {
    const value = values.find((candidate) => candidate === given[name]);
    if (value !== undefined) return value;
    throw new TypeError(`the description's ${name} must be one of ${values.join(', ')}, got ${String(given[name])}`);
  };
  const memoryBytes = integer('memoryBytes', MIN_MEMORY_BYTES, MAX_MEMORY_BYTES);
  return {
    kind: oneOf('kind', ['kvm', 'software']),
    memoryBytes,
    vcpus: integer('vcpus', 1, MAXIMUM_VCPUS),
    dirtyPagesPerSecond: integer('dirtyPagesPerSecond', 0, 2 ** 31 - 1),
    workingSetBytes: integer('workingSetBytes', PAGE_SIZE, memoryBytes),
    order: oneOf('order', ['sequential', 'random']),
    wholePages: given['wholePages'] === true,
    heartbeatMs: integer('heartbeatMs', 1, 60_000),
  };
}
