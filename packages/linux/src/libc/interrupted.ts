import { Errno } from './errno.js';
import { withSignalsHeld } from './signal-mask.js';

/**
 * The number of calls before signals are held back: signals that come faster than a call can be made (a timer of
 * microseconds) would interrupt it for ever.
 */
const MOST_CALLS = 16;

/**
 * Makes a system call again for as long as a signal interrupts it. After a few times this thread's signals are held back
 * during the call: KVM_CREATE_VM fails when a signal is pending, and takes longer than 30 us.
 *
 * @param call returns the result, or minus errno
 */
export function uninterrupted(call: () => number): number {
  const result = repeated(call);
  return result === -Errno.EINTR ? withSignalsHeld(() => repeated(call)) : result;
}

function repeated(call: () => number): number {
  let result = call();
  for (let calls = 1; result === -Errno.EINTR && calls < MOST_CALLS; calls++) result = call();
  return result;
}

/** Does the same for a call on a pool thread, to which no timer of this package sends signals. */
export async function uninterruptedAsync(call: () => Promise<number>): Promise<number> {
  for (;;) {
    const result = await call();
    if (result !== -Errno.EINTR) return result;
  }
}
