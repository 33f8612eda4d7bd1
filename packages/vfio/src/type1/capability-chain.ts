import { GodwitError } from '@godwit/core';
import { VFIO_INFO_CAP_HEADER } from '../layouts/vfio-setup.js';

/**
 * One capability of a chain, as bytes from its header to the end of the buffer, since it does not have its own length.
 */
export interface Capability {
  readonly id: number;
  readonly version: number;
  /** The offset from the start of the info buffer. */
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/**
 * Walks the capability chain of an info buffer (VFIO_IOMMU_GET_INFO, VFIO_DEVICE_GET_REGION_INFO). Capabilities are
 * identified by id: their order differs between kernels, and new ones appear in the middle.
 *
 * @param info all that the kernel wrote
 * @param first offset of the first capability; 0 for none
 * @param minimum where capabilities may begin: the end of the fixed part
 * @throws GodwitError GODWIT_SYSCALL for a chain that leaves the buffer, runs into its head, or never ends
 */
export function capabilityChain(info: Uint8Array, first: number, minimum: number): readonly Capability[] {
  const view = new DataView(info.buffer, info.byteOffset, info.byteLength);
  const { size, fields } = VFIO_INFO_CAP_HEADER;
  const chain: Capability[] = [];
  const seen = new Set<number>();
  for (let offset = first; offset !== 0; ) {
    if (offset < minimum || offset + size > info.byteLength) {
      throw broken(`one is said to be at byte ${offset}, outside ${minimum}..${info.byteLength}`);
    }
    if (seen.has(offset)) throw broken(`it comes back to byte ${offset}`);
    seen.add(offset);
    chain.push({
      id: view.getUint16(offset + fields.id[0], true),
      version: view.getUint16(offset + fields.version[0], true),
      offset,
      bytes: info.subarray(offset),
    });
    offset = view.getUint32(offset + fields.next[0], true);
  }
  return chain;
}

/** The capability with this id, when it has at least `size` bytes; null when there is none. */
export function capabilityOf(chain: readonly Capability[], id: number, size: number): Capability | null {
  const found = chain.find((capability) => capability.id === id);
  if (found === undefined) return null;
  if (found.bytes.byteLength < size) {
    throw broken(`${found.bytes.byteLength} bytes are left for capability ${id}, which has ${size}`);
  }
  return found;
}

export function broken(what: string): GodwitError {
  return new GodwitError('GODWIT_SYSCALL', `the kernel returned a chain of VFIO capabilities that is broken: ${what}`);
}
