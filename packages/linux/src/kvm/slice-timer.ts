import { cFunction, check, getThreadId, sizeArgument, WAKE_SIGNAL } from '../libc/index.js';

/** linux/time.h */
const CLOCK_MONOTONIC = 1;
/** asm-generic/siginfo.h: the signal goes to the thread named in the event, not to any thread of the process. */
const SIGEV_THREAD_ID = 4;
/** `struct sigevent` on 64-bit Linux (asm-generic/siginfo.h): value 0, signo 8, notify 12, thread id 16; 64 bytes. */
const SIGEVENT_WORDS = 16;

/**
 * A POSIX timer that interrupts the thread which made it, again and again: it ends a vCPU's time slice while the vCPU
 * is in KVM_RUN and this thread is blocked. The timer is in the kernel and not in the main thread's event loop, since
 * the main thread is the busiest of the process during a migration.
 *
 * A tick that comes while the thread is not in a system call does nothing; the next one does.
 *
 * @example
 * const timer = new SliceTimer(); // in the vCPU's thread
 * timer.tickEvery(10); // KVM_RUN returns EINTR at least every 10 ms
 * timer.close();
 */
export class SliceTimer {
  readonly #setTime: (id: bigint, flags: number, value: Uint8Array, old: null) => number;
  readonly #delete: (id: bigint) => number;
  readonly #id: bigint;
  #closed = false;

  /** Makes a timer for the calling thread. The wake signal's handler must be installed. */
  constructor(signal: number = WAKE_SIGNAL) {
    // The functions are declared here and not at load time: before glibc 2.34 they were in librt, which Node does not
    // load.
    const create = cFunction<[number, Uint8Array, Uint8Array], number>('timer_create', 'int', [
      'int',
      'void *',
      'void *',
    ]);
    this.#setTime = cFunction<[bigint, number, Uint8Array, null], number>('timer_settime', 'int', [
      'unsigned long',
      'int',
      'void *',
      'void *',
    ]);
    this.#delete = cFunction<[bigint], number>('timer_delete', 'int', ['unsigned long']);
    const event = new Uint32Array(SIGEVENT_WORDS);
    event[2] = signal;
    event[3] = SIGEV_THREAD_ID;
    event[4] = getThreadId();
    const id = new BigUint64Array(1);
    check('timer_create', create(CLOCK_MONOTONIC, new Uint8Array(event.buffer), new Uint8Array(id.buffer)));
    this.#id = id[0] as bigint;
  }

  /**
   * @param milliseconds between two ticks, to the next larger nanosecond; 0 stops
   * @throws GodwitError GODWIT_INVALID_ARGUMENT for an impossible time
   */
  tickEvery(milliseconds: number): void {
    const whole = sizeArgument('the time between two ticks, in nanoseconds,', Math.ceil(milliseconds * 1e6));
    const [seconds, nanoseconds] = [Math.floor(whole / 1e9), whole % 1e9];
    // struct itimerspec: interval, then first expiry; both seconds and nanoseconds, 8 bytes each.
    const time = BigUint64Array.of(BigInt(seconds), BigInt(nanoseconds), BigInt(seconds), BigInt(nanoseconds));
    check('timer_settime', this.#setTime(this.#id, 0, new Uint8Array(time.buffer), null));
  }

  /** Deletes the timer. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#delete(this.#id);
  }
}
