import { GodwitError } from '@godwit/core/errors';
import { UFFD_MSG, Uffd } from '../layouts/userfaultfd.js';
import { Errno, readFd, SyscallError } from '../libc/index.js';

const TWO_32 = 2 ** 32;
const { fields } = UFFD_MSG;

/** An event that a userfaultfd reports. Addresses and lengths are in bytes. */
export type UserfaultEvent =
  /** A thread waits for a page. `thread`: its id, with `UFFD_FEATURE_THREAD_ID`, else 0. */
  | {
      readonly type: 'page-fault';
      readonly address: number;
      readonly write: boolean;
      readonly kind: 'missing' | 'minor' | 'write-protected';
      readonly thread: number;
    }
  /** The process has forked. `fd` is a userfaultfd of the child's memory, open in this process from now on: close it. */
  | { readonly type: 'fork'; readonly fd: number }
  | { readonly type: 'remap'; readonly from: number; readonly to: number; readonly byteLength: number }
  /** Pages were given back (MADV_DONTNEED, MADV_REMOVE): they are missing again. */
  | { readonly type: 'remove'; readonly start: number; readonly end: number }
  | { readonly type: 'unmap'; readonly start: number; readonly end: number };

/**
 * Reads the messages of a userfaultfd, many in one call, into memory that is made once: `read`, then `address(i)` and the like for a
 * page fault, or `event(i)`, which makes an object, for anything.
 *
 * @example
 * const messages = new FaultMessages(uffd.fd);
 * for (let i = messages.read() - 1; i >= 0; i--) if (messages.isMissing(i)) serve(messages.address(i), messages.thread(i));
 */
export class FaultMessages {
  readonly #fd: number;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  /** @param room most messages of one `read` */
  constructor(fd: number, room = 64) {
    this.#fd = fd;
    this.#view = new DataView(new ArrayBuffer(room * UFFD_MSG.size));
    this.#bytes = new Uint8Array(this.#view.buffer);
  }

  /**
   * Reads the messages that are there, and returns their number: 0 when there is none. The descriptor is non-blocking: wait with
   * `PollSet`.
   *
   * @throws SyscallError for a descriptor that is closed or no userfaultfd
   */
  read(): number {
    const bytes = readFd(this.#fd, this.#bytes);
    if (bytes >= 0) return Math.floor(bytes / UFFD_MSG.size);
    if (bytes === -Errno.EAGAIN || bytes === -Errno.EINTR) return 0;
    throw new SyscallError('read', -bytes, `the events of the userfaultfd ${this.#fd}`);
  }

  /** Whether message `i` is of a thread that waits for a missing page. */
  isMissing(i: number): boolean {
    const { UFFD_EVENT_PAGEFAULT, UFFD_PAGEFAULT_FLAG_WP, UFFD_PAGEFAULT_FLAG_MINOR } = Uffd;
    if (this.#view.getUint8(this.#at(i, 'event')) !== UFFD_EVENT_PAGEFAULT) return false;
    return (this.#flags(i) & (UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_MINOR)) === 0;
  }

  /** Whether message `i` is of a thread that waits to write a protected page. */
  isWriteProtected(i: number): boolean {
    if (this.#view.getUint8(this.#at(i, 'event')) !== Uffd.UFFD_EVENT_PAGEFAULT) return false;
    return (this.#flags(i) & Uffd.UFFD_PAGEFAULT_FLAG_WP) !== 0;
  }

  /** The address of a page fault: the start of the page, or with `UFFD_FEATURE_EXACT_ADDRESS` the byte. */
  address(i: number): number {
    return this.#number(i, 'arg.pagefault.address');
  }

  /** The thread of a page fault (`getThreadId`); 0 without `UFFD_FEATURE_THREAD_ID`. */
  thread(i: number): number {
    return this.#view.getUint32(this.#at(i, 'arg.pagefault.feat.ptid'), true);
  }

  /** @throws GodwitError GODWIT_UNSUPPORTED for an event that this version does not know */
  event(i: number): UserfaultEvent {
    const code = this.#view.getUint8(this.#at(i, 'event'));
    switch (code) {
      case Uffd.UFFD_EVENT_PAGEFAULT: {
        const flags = this.#flags(i);
        const kind = (flags & Uffd.UFFD_PAGEFAULT_FLAG_MINOR) !== 0 ? 'minor' : 'missing';
        return {
          type: 'page-fault',
          address: this.address(i),
          write: (flags & Uffd.UFFD_PAGEFAULT_FLAG_WRITE) !== 0,
          kind: (flags & Uffd.UFFD_PAGEFAULT_FLAG_WP) !== 0 ? 'write-protected' : kind,
          thread: this.thread(i),
        };
      }
      case Uffd.UFFD_EVENT_FORK:
        return { type: 'fork', fd: this.#view.getUint32(this.#at(i, 'arg.fork.ufd'), true) };
      case Uffd.UFFD_EVENT_REMAP:
        return {
          type: 'remap',
          from: this.#number(i, 'arg.remap.from'),
          to: this.#number(i, 'arg.remap.to'),
          byteLength: this.#number(i, 'arg.remap.len'),
        };
      case Uffd.UFFD_EVENT_REMOVE:
      case Uffd.UFFD_EVENT_UNMAP:
        return {
          type: code === Uffd.UFFD_EVENT_REMOVE ? 'remove' : 'unmap',
          start: this.#number(i, 'arg.remove.start'),
          end: this.#number(i, 'arg.remove.end'),
        };
      default:
        throw new GodwitError(
          'GODWIT_UNSUPPORTED',
          `the userfaultfd reports event 0x${code.toString(16)}, which is not known`,
        );
    }
  }

  #flags(i: number): number {
    return this.#view.getUint32(this.#at(i, 'arg.pagefault.flags'), true);
  }

  #number(i: number, field: keyof typeof fields): number {
    const at = this.#at(i, field);
    return this.#view.getUint32(at + 4, true) * TWO_32 + this.#view.getUint32(at, true);
  }

  #at(i: number, field: keyof typeof fields): number {
    return i * UFFD_MSG.size + fields[field][0];
  }
}
