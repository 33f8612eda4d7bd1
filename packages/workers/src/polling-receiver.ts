import {
  Errno,
  receiveFrom,
  SocketNumbers,
  SplicePipe,
  setBlocking,
  setReceiveTimeout,
  yieldProcessor,
} from '@godwit/linux/unstable/libc';

/** How long a receive polls for bytes before it blocks in the kernel, in milliseconds. */
const POLL_MS = 0.02;

/** After this many polls without bytes a receive blocks until it has all of the rest, since the link is slower than this thread. */
const VAIN_POLLS = 4;

/**
 * Most milliseconds that received bytes stay uncounted while a receive blocks for more: keepalive must notice the bytes of a slow link.
 */
const COUNT_MS = 100;

/**
 * Receives from a socket, and polls for some microseconds before it blocks. Waking a thread that blocks costs the sender of the bytes as
 * much as copying them (on a vCPU, a call of the hypervisor each time), and on a fast link the thread would be woken for each 64 KiB.
 * While the receiver polls, it yields the processor to threads that want it. KVM polls before a halt for the same reason. Two loops in C
 * over TCP on one host took 570 ms for 2 GiB when they blocked at once, and 425 ms when they polled first.
 */
export class PollingReceiver {
  readonly #fd: number;
  readonly #count: (bytes: number) => void;
  /** Minus errno of a call that failed after earlier calls had returned bytes. */
  #failure = 0;
  /** How long a receive polls before it blocks, in milliseconds; 0: not at all. */
  pollMs = POLL_MS;
  #pipe: SplicePipe | undefined;
  readonly #peeked = new Uint8Array(1);

  /** Calls on `fd` block from now on. `count` is called with the number of received bytes, at most `COUNT_MS` after they have come. */
  constructor(fd: number, count: (bytes: number) => void) {
    this.#fd = fd;
    this.#count = count;
    setBlocking(fd, true);
    setReceiveTimeout(fd, COUNT_MS);
  }

  /**
   * Waits for bytes; returns the number of bytes, at most `most`, that were put into `into`, 0 at the end of the stream, or minus errno.
   */
  some(into: Uint8Array, most: number): number {
    if (this.#failure < 0) return this.#failure;
    let count = this.#poll(into, most);
    while (again(count)) count = receiveFrom(this.#fd, into, most);
    if (count > 0) this.#count(count);
    return count;
  }

  /**
   * Waits for bytes and puts them into a file; returns the number of bytes, at most `most`, 0 at the end of the stream, or minus errno.
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
   * Polls for bytes for a while, before a call that waits for them in the kernel. Returns 0, or minus errno of a lost link, which the
   * kernel reports only once.
   */
  #awaitBytes(): number {
    const { MSG_DONTWAIT, MSG_PEEK } = SocketNumbers;
    const until = performance.now() + this.pollMs;
    for (;;) {
      const count = receiveFrom(this.#fd, this.#peeked, 1, MSG_DONTWAIT | MSG_PEEK);
      if (count >= 0) return 0;
      if (!again(count)) return count;
      if (performance.now() >= until) return 0;
      yieldProcessor();
    }
  }

  /** Waits until `into` is full or the stream ends; returns how many bytes are in it, or minus errno. */
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

  /** Bytes that came before a failure are returned first. The kernel reports a failure only once, so that it is kept for the next call. */
  #ended(done: number, count: number): number {
    this.#failure = Math.min(0, count);
    return done > 0 ? done : count;
  }

  #poll(into: Uint8Array, most: number): number {
    if (this.pollMs === 0) return -Errno.EAGAIN;
    let count = receiveFrom(this.#fd, into, most, SocketNumbers.MSG_DONTWAIT);
    if (count !== -Errno.EAGAIN) return count;
    const until = performance.now() + this.pollMs;
    do {
      yieldProcessor();
      count = receiveFrom(this.#fd, into, most, SocketNumbers.MSG_DONTWAIT);
    } while (count === -Errno.EAGAIN && performance.now() < until);
    return count;
  }
}

/** Whether the call is to be made again, since no bytes have come yet or a signal has interrupted it. */
function again(count: number): boolean {
  return count === -Errno.EAGAIN || count === -Errno.EINTR;
}
