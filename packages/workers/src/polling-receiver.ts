import {
  Errno,
  receiveFrom,
  SocketNumbers,
  SplicePipe,
  setBlocking,
  setReceiveTimeout,
  yieldProcessor,
} from '@godwit/linux/libc';

/** How long to look for more bytes before waiting for them in the kernel, in milliseconds. */
const POLL_MS = 0.02;

/** A receive for which so many looks were in vain waits for the rest in one go: the link is slower than this thread. */
const VAIN_POLLS = 4;

/** How long bytes that have come may stay uncounted, while more are waited for: a slow link is not a silent one. */
const COUNT_MS = 100;

/**
 * Receives from a socket, and stays awake while bytes come fast: to wake a thread costs whoever brings the bytes as much as
 * their copy does (with virtual CPUs a call of the hypervisor each time), and on a fast link that happens for each 64 KiB. So
 * it looks again for some microseconds, giving way to others that want the processor, before it waits; KVM's halt polling
 * has the same reason. Two loops in C over TCP on one host: 570 ms for 2 GiB when waiting, 425 when looking first.
 */
export class PollingReceiver {
  readonly #fd: number;
  readonly #count: (bytes: number) => void;
  /** Minus errno of a call that failed after others had brought bytes. */
  #failure = 0;
  #pipe: SplicePipe | undefined;
  readonly #peeked = new Uint8Array(1);

  /** Calls on `fd` wait from now on. `count` hears of all bytes, a tenth of a second late at most. */
  constructor(fd: number, count: (bytes: number) => void) {
    this.#fd = fd;
    this.#count = count;
    setBlocking(fd, true);
    setReceiveTimeout(fd, COUNT_MS);
  }

  /** Waits for any bytes: how many of at most `most` are in `into` now, 0 at the end of the stream, or minus errno. */
  some(into: Uint8Array, most: number): number {
    if (this.#failure < 0) return this.#failure;
    let count = this.#poll(into, most);
    while (again(count)) count = receiveFrom(this.#fd, into, most);
    if (count > 0) this.#count(count);
    return count;
  }

  /**
   * Waits for any bytes and puts them into a file: how many of at most `most` went there, 0 at the end of the stream, or minus errno.
   */
  intoFile(file: number, position: number, most: number): number {
    if (this.#failure < 0) return this.#failure;
    this.#pipe ??= new SplicePipe();
    let count = -Errno.EAGAIN;
    while (again(count)) {
      const failure = this.#awaitBytes();
      if (failure < 0) return this.#ended(0, failure);
      count = this.#pipe.move(this.#fd, file, position, most);
    }
    if (count > 0) this.#count(count);
    return count;
  }

  close(): void {
    this.#pipe?.close();
  }

  /**
   * Looks for bytes for a while, before a call that waits for them in the kernel. Returns minus errno of a link that is lost, which the
   * kernel does not name a second time, and else 0.
   */
  #awaitBytes(): number {
    const { MSG_DONTWAIT, MSG_PEEK } = SocketNumbers;
    const until = performance.now() + POLL_MS;
    for (;;) {
      const count = receiveFrom(this.#fd, this.#peeked, 1, MSG_DONTWAIT | MSG_PEEK);
      if (count >= 0) return 0;
      if (!again(count)) return count;
      if (performance.now() >= until) return 0;
      yieldProcessor();
    }
  }

  /** Waits until `into` is full or the stream ends: how many bytes are in it, or minus errno. */
  all(into: Uint8Array): number {
    if (this.#failure < 0) return this.#failure;
    let done = 0;
    let vain = 0;
    while (done < into.length) {
      const rest = done === 0 ? into : into.subarray(done);
      let count = vain < VAIN_POLLS ? this.#poll(rest, rest.length) : -Errno.EAGAIN;
      if (again(count)) {
        vain++;
        count = receiveFrom(this.#fd, rest, rest.length, vain < VAIN_POLLS ? 0 : SocketNumbers.MSG_WAITALL);
      }
      if (again(count)) continue;
      if (count <= 0) return this.#ended(done, count);
      this.#count(count);
      done += count;
    }
    return done;
  }

  /** Bytes that came before a failure are handed out first; the kernel names a failure only once. */
  #ended(done: number, count: number): number {
    this.#failure = Math.min(0, count);
    return done > 0 ? done : count;
  }

  #poll(into: Uint8Array, most: number): number {
    let count = receiveFrom(this.#fd, into, most, SocketNumbers.MSG_DONTWAIT);
    if (count !== -Errno.EAGAIN) return count;
    const until = performance.now() + POLL_MS;
    do {
      yieldProcessor();
      count = receiveFrom(this.#fd, into, most, SocketNumbers.MSG_DONTWAIT);
    } while (count === -Errno.EAGAIN && performance.now() < until);
    return count;
  }
}

/** Nothing has come yet, or a signal did. */
function again(count: number): boolean {
  return count === -Errno.EAGAIN || count === -Errno.EINTR;
}
