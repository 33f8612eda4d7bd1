import { parentPort, workerData } from 'node:worker_threads';
import { PollEvents, PollSet, readFd } from '@godwit/linux/unstable/libc';
import { VirtioWord, VirtioWords } from './virtio-words.js';

/** The data with which the thread is started. */
export interface NotifyThreadData {
  /** `virtio` of the `SharedBoard`. */
  readonly words: Int32Array<SharedArrayBuffer>;
  /** The queues, each with its event counter. */
  readonly queues: readonly { readonly device: number; readonly queue: number; readonly fd: number }[];
  /** An event counter: the thread ends once it can be read. */
  readonly stopFd: number;
}

/*
 * The thread that waits for the event counters of all queues. It notes what was notified, as the thread of a vCPU does without event counters,
 * and tells the main thread once until that has read the notes.
 */
const { words: shared, queues, stopFd } = workerData as NotifyThreadData;
const port = parentPort;
if (port === null) throw new Error('this module is the thread of event counters');
const board = new VirtioWords(shared);
const set = new PollSet([stopFd, ...queues.map(({ fd }) => fd)]);
const count = new Uint8Array(8);

for (;;) {
  set.wait(-1);
  if ((set.found(0) & PollEvents.POLLIN) !== 0) break;
  let isNew = false;
  queues.forEach(({ device, queue, fd }, i) => {
    if ((set.found(i + 1) & PollEvents.POLLIN) === 0 || readFd(fd, count) < 0) return;
    const before = Atomics.or(board.words, board.device(device) + VirtioWord.notified, 1 << queue);
    isNew ||= before === 0;
  });
  if (isNew) port.postMessage('notified');
}
