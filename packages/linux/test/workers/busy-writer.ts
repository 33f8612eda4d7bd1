import { parentPort, workerData } from 'node:worker_threads';
import { attachGuestMemory, type GuestMemoryAttachment } from '@godwit/linux';

/** Counts up a random word of a random page of block 0, as fast as it can, until `stop[0]` is no longer 0. */
const { attachment, stop } = workerData as { attachment: GuestMemoryAttachment; stop: Int32Array };
const block = attachGuestMemory(attachment).blocks[0];
if (block === undefined) throw new Error('no block');
const bytes = block.view(0, block.byteLength);
const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
parentPort?.postMessage('running');
while (Atomics.load(stop, 0) === 0) {
  for (let i = 0; i < 100; i++) {
    const at = Math.floor(Math.random() * words.length);
    words[at] = ((words[at] as number) + 1) >>> 0;
  }
}
