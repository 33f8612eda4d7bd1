import { type ProcessorTime, processorTime } from './processor-time.js';

/** The engine's only source of time, so that all of it can run under a virtual clock. */
export interface Clock {
  /** Milliseconds of a monotonic clock with an arbitrary origin. */
  now(): number;
  /** Resolves after `ms`; rejects with the signal's reason when it aborts first. Leaves no timer behind. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  /** Lets pending I/O and timers run, then resolves. Called inside long computations. */
  yield(): Promise<void>;
  /**
   * For how long the calling thread has run, and for how long it waited for a processor; `undefined` where that is not known. Without it
   * the downtime that is predicted on a busy host is less exact.
   */
  processorTime?(): ProcessorTime | undefined;
}

declare const setImmediate: ((callback: () => void) => unknown) | undefined;

/** The longest delay of `setTimeout`, which fires at once when given more. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** The machine's own clock: `performance.now`, `setTimeout`, and on Linux the scheduler's statistics of a thread. */
export const systemClock: Clock = {
  now: () => performance.now(),
  processorTime,
  sleep(ms, signal) {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      const onAbort = () => {
        clearTimeout(timer);
        reject(signal?.reason);
      };
      const end = performance.now() + ms;
      const wait = (left: number) =>
        setTimeout(
          () => {
            const rest = left - LONGEST_TIMER_MS;
            if (rest > 0) {
              timer = wait(end - performance.now());
              return;
            }
            signal?.removeEventListener('abort', onAbort);
            resolve();
          },
          Math.min(left, LONGEST_TIMER_MS),
        );
      let timer = wait(ms);
      signal?.addEventListener('abort', onAbort, { once: true });
    });
  },
  yield() {
    return new Promise((resolve) => {
      if (typeof setImmediate === 'function') setImmediate(resolve);
      else setTimeout(resolve, 0);
    });
  },
};
