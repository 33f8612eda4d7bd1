import { resultOrNegativeErrno } from './call.js';
import { intArgument } from './integer-argument.js';
import { cFunction } from './library.js';

const cPoll = cFunction<[Uint8Array, number, number], number>('poll', 'int', ['void *', 'unsigned long', 'int']);

/** poll.h */
export const PollEvents = { POLLIN: 0x1, POLLOUT: 0x4, POLLERR: 0x8, POLLHUP: 0x10, POLLNVAL: 0x20 } as const;

/** bits/poll.h (`struct pollfd`), in bytes. */
export const POLLFD = { size: 8, fields: { fd: [0, 4], events: [4, 2], revents: [6, 2] } } as const;

/** Descriptors for which a thread waits in `poll(2)`; the set is made once and used for many waits. */
export class PollSet {
  readonly #entries: Uint8Array;
  readonly #view: DataView;
  readonly #count: number;

  /** @param fds the descriptors, each waited for until it can be read; their owners keep them open */
  constructor(fds: readonly number[]) {
    this.#count = fds.length;
    this.#view = new DataView(new ArrayBuffer(fds.length * POLLFD.size));
    this.#entries = new Uint8Array(this.#view.buffer);
    for (const [i, fd] of fds.entries()) {
      this.#view.setInt32(i * POLLFD.size + POLLFD.fields.fd[0], intArgument('a file descriptor', fd), true);
      this.#view.setInt16(i * POLLFD.size + POLLFD.fields.events[0], PollEvents.POLLIN, true);
    }
  }

  /**
   * Waits until a descriptor can be read or is broken, at most `milliseconds` (-1: for ever). Returns the number of such descriptors, 0
   * when the time is over, or minus errno (EINTR when a signal ends the wait).
   */
  wait(milliseconds: number): number {
    return resultOrNegativeErrno(cPoll(this.#entries, this.#count, milliseconds));
  }

  /** The result of the last `wait` for the descriptor at this index: bits of `PollEvents`. */
  found(index: number): number {
    return this.#view.getInt16(index * POLLFD.size + POLLFD.fields.revents[0], true);
  }
}
