import type { KoffiFunc } from 'koffi';
import { lastErrno } from './library.js';
import { SyscallError } from './syscall-error.js';

/** What `mmap` returns on failure: `(void *) -1` (sys/mman.h), not null. */
export const MAP_FAILED = 0xffff_ffff_ffff_ffffn;

/**
 * Passes the result of a call through, or throws a `SyscallError` when it is -1. Pass the call itself as the argument,
 * so that errno is read right after it.
 */
export function check<R extends number | bigint>(syscall: string, result: R, asked = ''): R {
  if (result !== -1 && result !== MAP_FAILED) return result;
  throw new SyscallError(syscall, lastErrno(), asked);
}

/**
 * Returns the result of a call, or minus errno as the kernel itself returns it, for callers that expect certain
 * failures.
 */
export function resultOrNegativeErrno(result: number): number {
  return result === -1 ? -lastErrno() : result;
}

/** Arguments of calls in flight: koffi does not keep them alive, and a collected buffer corrupts the heap. */
const inFlight = new Set<readonly unknown[]>();

/**
 * Makes the call on a thread of libuv's pool. Resolves with the result or minus errno; the arguments stay alive until
 * then. For calls that may block for more than about 50 us: handing over takes 12 to 30 us, and the pool (4 threads
 * unless `UV_THREADPOOL_SIZE` sets another number) is shared with `fs`, `dns` and `zlib`.
 *
 * Rejects when koffi refuses the call, which it does with 256 in flight.
 */
export function callAsync<A extends readonly unknown[]>(
  fn: KoffiFunc<(...args: [...A]) => number>,
  ...args: [...A]
): Promise<number> {
  return new Promise((resolve, reject) => {
    inFlight.add(args);
    const done = (error: unknown, result: number): void => {
      // errno is valid only in this callback, and not when the promise's reactions run.
      const outcome = error ? 0 : resultOrNegativeErrno(result);
      inFlight.delete(args);
      if (error) reject(error);
      else resolve(outcome);
    };
    try {
      (fn.async as (...all: unknown[]) => void)(...args, done);
    } catch (error) {
      inFlight.delete(args);
      reject(error);
    }
  });
}

/** Does the same as `callAsync`, but rejects with a `SyscallError` instead of resolving with a negative number. */
export async function checkAsync<A extends readonly unknown[]>(
  syscall: string,
  asked: string,
  fn: KoffiFunc<(...args: [...A]) => number>,
  ...args: [...A]
): Promise<number> {
  const result = await callAsync(fn, ...args);
  if (result < 0) throw new SyscallError(syscall, -result, asked);
  return result;
}
