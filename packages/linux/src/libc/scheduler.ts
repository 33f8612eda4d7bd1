import { cFunction } from './library.js';

const cSchedYield = cFunction<[], number>('sched_yield', 'int', []);

/**
 * `sched_yield(2)`: lets another thread that is ready run on this processor, and returns at once when there is none.
 *
 * @example
 * while (Atomics.load(words, 0) === 0) yieldProcessor();
 */
export function yieldProcessor(): void {
  cSchedYield();
}
