import { parentPort, workerData } from 'node:worker_threads';
import { PollEvents, PollSet, readFd } from '@godwit/linux/unstable/libc';

/** The data with which the thread is started. */
export interface TapThreadData {
  /** A tap interface, non-blocking. */
  readonly fd: number;
  /** An event counter: the thread ends once it can be read. */
  readonly stopFd: number;
}

/** A frame with its largest header; longer ones are cut off, and the card drops them. */
const ROOM_BYTES = 2 ** 16;
/** The most frames that are read before the stop is looked at again. */
const AT_A_TIME = 64;

/* The thread that reads the frames of a tap interface, and posts each to the main thread. */
const { fd, stopFd } = workerData as TapThreadData;
const port = parentPort;
if (port === null) throw new Error('this module is the thread of a tap interface');
const set = new PollSet([stopFd, fd]);
const room = new Uint8Array(ROOM_BYTES);

for (;;) {
  set.wait(-1);
  if ((set.found(0) & PollEvents.POLLIN) !== 0) break;
  // The interface was removed: there is nothing more to read.
  if ((set.found(1) & (PollEvents.POLLERR | PollEvents.POLLNVAL)) !== 0) break;
  for (let i = 0; i < AT_A_TIME; i++) {
    const bytes = readFd(fd, room);
    if (bytes <= 0) break;
    port.postMessage(room.slice(0, bytes));
  }
}
