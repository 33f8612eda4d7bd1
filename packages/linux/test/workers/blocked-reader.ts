import { parentPort, workerData } from 'node:worker_threads';
import { getThreadId } from '@godwit/linux';
import { readFd } from '@godwit/linux/unstable';

/** Says its thread id, blocks in read(2), and says what came of it. */
parentPort?.postMessage(getThreadId());
parentPort?.postMessage(readFd(workerData as number, new Uint8Array(8)));
