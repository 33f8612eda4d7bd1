import { populatedRuns } from '@godwit/core';
import type { VirtualMachine } from '@godwit/example-node-vmm';

/** All bytes that a device saves, joined. */
export async function savedState(device: { save(): AsyncIterable<Uint8Array> }): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of device.save()) chunks.push(Uint8Array.from(chunk));
  return Buffer.concat(chunks);
}

/** The bytes in chunks of an awkward size. */
export async function* inChunks(bytes: Uint8Array, size = 777): AsyncIterable<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size);
}

/** Moves a paused guest into an empty machine of the same process: all populated memory, then all devices. */
export async function moveGuest(from: VirtualMachine, to: VirtualMachine): Promise<void> {
  const { pageSize } = from.memory;
  for (const [index, block] of from.memory.blocks.entries()) {
    const target = to.memory.blocks[index];
    if (target === undefined) throw new Error(`the destination has no RAM block ${index}`);
    const all = { firstPage: 0, pageCount: block.byteLength / pageSize };
    for (const { firstPage, pageCount } of populatedRuns(block, all)) {
      for (let page = firstPage; page < firstPage + pageCount; page++) {
        target.view(page * pageSize, pageSize).set(block.view(page * pageSize, pageSize));
      }
    }
  }
  for (const device of to.devices) {
    const source = from.devices.find(({ id }) => id === device.id);
    if (source === undefined) throw new Error(`the source has no device ${device.id}`);
    await device.load(inChunks(await savedState(source)), source.version);
  }
}
