import { parentPort, workerData } from 'node:worker_threads';
import { type RingThreadData, reapRings } from './reap-rings.js';

/** The thread that reaps the dirty rings of a VM: see `reapRings`. */
const port = parentPort;
if (port === null) throw new Error('this module is the thread that reaps dirty rings');
reapRings(workerData as RingThreadData, (message) => port.postMessage(message));
