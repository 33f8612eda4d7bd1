import { parentPort, workerData } from 'node:worker_threads';
import { attachGuestMemory, type GuestMemoryAttachment } from '@godwit/linux';

/** Writes the first byte of the pages it is told, through the owner's own mapping. */
const memory = attachGuestMemory(workerData as GuestMemoryAttachment);

parentPort?.on('message', (pages: readonly number[] | null) => {
  if (pages === null) {
    memory.close();
    parentPort?.close();
    return;
  }
  const block = memory.blocks[0];
  for (const page of pages) {
    const bytes = block?.view(page * memory.pageSize, 1);
    if (bytes !== undefined) bytes[0] = ((bytes[0] as number) + 1) % 256;
  }
  parentPort?.postMessage('written');
});
