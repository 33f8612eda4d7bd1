/**
 * `node locked-memory-child.js GROUP`: maps 64 pages for the devices of an IOMMU group, and prints the result as JSON. It
 * is run with a limit of locked memory, and without the capability that lifts the limit.
 */
import { GodwitError } from '@godwit/core';
import { createGuestMemory } from '@godwit/linux';
import { Type1Container, VfioGroup } from '@godwit/vfio';

const group = VfioGroup.open(Number(process.argv[2]));
const container = Type1Container.open([group]);
const memory = createGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * 4096 }] });
try {
  await container.mapMemory(memory);
  process.stdout.write(JSON.stringify({ mapped: container.mappings.length }));
} catch (error) {
  if (!GodwitError.is(error)) throw error;
  process.stdout.write(JSON.stringify({ code: error.code, message: error.message, mapped: container.mappings.length }));
}
container.close();
group.close();
memory.close();
