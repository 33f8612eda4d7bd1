import { parentPort, workerData } from 'node:worker_threads';
import type { PageRun } from '@godwit/core';
import { attachGuestMemory, type GuestMemoryAttachment } from '@godwit/linux';

/** Discards the pages that it is told, and says whether it might. */
const [block] = attachGuestMemory(workerData as GuestMemoryAttachment).blocks;
parentPort?.on('message', (range: PageRun) => parentPort?.postMessage(block?.discard(range)));
