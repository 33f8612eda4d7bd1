import { parentPort, workerData } from 'node:worker_threads';
import { attachGuestMemory, type GuestMemoryAttachment, getThreadId } from '@godwit/linux';
import { readFd } from '@godwit/linux/unstable';
import { PAGE, wordOf } from './pattern-source.js';

/** What the thread does with guest memory; it answers with a number. */
export type Touching =
  /** Compares pages with the pattern (`zero`: with zeros), in this order: the number of those that differ. */
  | { readonly do: 'check'; readonly block: number; readonly pages: readonly number[]; readonly zero?: boolean }
  | { readonly do: 'store'; readonly block: number; readonly page: number; readonly value: number }
  /** A system call writes there: its result. */
  | { readonly do: 'read'; readonly block: number; readonly page: number; readonly fd: number };

const memory = attachGuestMemory(workerData as GuestMemoryAttachment);

function obey(touching: Touching): number {
  const block = memory.blocks[touching.block];
  if (block === undefined) throw new Error('no such block');
  if (touching.do === 'check') {
    return touching.pages.filter((page) => {
      const bytes = block.view(page * PAGE, PAGE);
      const words = new Int32Array(bytes.buffer, bytes.byteOffset, PAGE / 4);
      return words.some((word, i) => word !== (touching.zero === true ? 0 : wordOf(touching.block, page, i)));
    }).length;
  }
  const bytes = block.view(touching.page * PAGE, PAGE);
  if (touching.do === 'read') return readFd(touching.fd, bytes.subarray(0, 8));
  new Int32Array(bytes.buffer, bytes.byteOffset, 1)[0] = touching.value;
  return touching.value;
}

parentPort?.on('message', (touching: Touching) => {
  parentPort?.postMessage(obey(touching));
});
parentPort?.postMessage(getThreadId());
