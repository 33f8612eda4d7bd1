import { setTimeout as sleep } from 'node:timers/promises';
import { Errno } from '@godwit/linux/unstable';

/** The first pause between two attempts, in milliseconds; each pause is twice the one before, half a second in all. */
const FIRST_PAUSE_MS = 1;
const LAST_PAUSE_MS = 256;

/**
 * Makes a reset, and repeats it while the device's lock is held: the kernel only tries to take the lock (`pci_try_reset_function`),
 * and returns EAGAIN.
 *
 * @param reset one attempt: 0, or minus errno
 * @returns the result of the last attempt
 */
export async function resetWhenFree(reset: () => Promise<number>): Promise<number> {
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs *= 2) {
    const result = await reset();
    if (result !== -Errno.EAGAIN || pauseMs > LAST_PAUSE_MS) return result;
    await sleep(pauseMs);
  }
}
