import { parentPort, workerData } from 'node:worker_threads';
import { getThreadId } from '@godwit/linux';
import { addressOf, cFunction, madvise, munmap, readFd, viewOf, writeFd } from '@godwit/linux/unstable';

/** What the thread is to do with its memory; it answers with a number, once that is done. */
export type Touch =
  | { readonly do: 'load' | 'store'; readonly offset: number; readonly value?: number }
  /** A system call reads the file into memory, or writes it from there: the result, or minus errno. */
  | { readonly do: 'read' | 'write'; readonly fd: number; readonly offset: number; readonly length: number }
  | {
      readonly do: 'give back' | 'unmap' | 'move';
      readonly offset: number;
      readonly length: number;
      readonly to?: bigint;
    };

const { address, byteLength } = workerData as { address: bigint; byteLength: number };
const memory = viewOf(address, byteLength);
const MREMAP_MAYMOVE_FIXED = 3;

function obey(touch: Touch): number {
  switch (touch.do) {
    case 'load':
      return memory[touch.offset] as number;
    case 'store':
      memory[touch.offset] = touch.value as number;
      return touch.value as number;
    case 'read':
      return readFd(touch.fd, memory.subarray(touch.offset, touch.offset + touch.length));
    case 'write':
      return writeFd(touch.fd, memory.subarray(touch.offset, touch.offset + touch.length));
    case 'give back':
      madvise(address + BigInt(touch.offset), touch.length, 4);
      return 0;
    case 'unmap':
      munmap(address + BigInt(touch.offset), touch.length);
      return 0;
    case 'move': {
      const mremap = cFunction<[bigint, number, number, number, bigint], bigint>('mremap', 'void *', [
        'void *',
        'size_t',
        'size_t',
        'int',
        'void *',
      ]);
      const { length } = touch;
      return Number(mremap(address + BigInt(touch.offset), length, length, MREMAP_MAYMOVE_FIXED, touch.to as bigint));
    }
  }
}

// Looked up once, so that the addresses of typed arrays that the calls need are all there before a page is missing.
addressOf(new Uint8Array(8));
parentPort?.on('message', (touch: Touch) => parentPort?.postMessage(obey(touch)));
parentPort?.postMessage(getThreadId());
