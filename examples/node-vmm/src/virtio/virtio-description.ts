import { GodwitError } from '@godwit/core';

/** A virtio device in the machine's description, which lists the devices in the order of their slots: plain data, equal on every host. */
export type VirtioDescription =
  | { readonly type: 'rng' }
  | { readonly type: 'block'; readonly byteLength: number; readonly readonly: boolean }
  | { readonly type: 'console' }
  | { readonly type: 'balloon' }
  /** `mac`: twelve hexadecimal digits. */
  | { readonly type: 'net'; readonly mac: string };

/**
 * Checks the virtio devices of a peer's description; a missing list is the same as an empty one.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT for a device that a machine here cannot have, or that is listed twice
 */
export function parseVirtio(given: unknown): readonly VirtioDescription[] {
  if (given === undefined) return [];
  const devices = Array.isArray(given) ? given.map(parseDevice) : undefined;
  const types = new Set(devices?.map((device) => device?.type));
  if (devices === undefined || types.has(undefined) || types.size !== devices.length) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `a machine's virtio devices are a list with each type once: rng, block (byteLength, readonly), console, net (mac), balloon; got ${JSON.stringify(given)}`,
    );
  }
  return devices as readonly VirtioDescription[];
}

function parseDevice(given: unknown): VirtioDescription | undefined {
  const { type, byteLength, readonly, mac } = (given ?? {}) as Record<string, unknown>;
  if (type === 'rng' || type === 'console' || type === 'balloon') return { type };
  if (type === 'net' && typeof mac === 'string' && /^[0-9a-f]{12}$/.test(mac)) return { type, mac };
  const isDisk = type === 'block' && typeof byteLength === 'number' && typeof readonly === 'boolean';
  return isDisk ? { type, byteLength, readonly } : undefined;
}
