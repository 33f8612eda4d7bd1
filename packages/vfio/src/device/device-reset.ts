import { setTimeout as sleep } from 'node:timers/promises';
import { Errno } from '@godwit/linux/unstable';

/** Between two attempts, in milliseconds: twice as long each time, half a second in all. */
const FIRST_PAUSE_MS = 1;
const LAST_PAUSE_MS = 256;

/**
 * A reset, made again while the device's lock is held: the kernel only tries to take it (`pci_try_reset_function`), and says EAGAIN.
 *
 * @param reset one attempt: 0, or minus errno
 * @returns what the last attempt said
 */
export async function resetWhenFree(reset: () => Promise<number>): Promise<number> {
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs *= 2) {
    const result = await reset();
    if (result !== -Errno.EAGAIN || pauseMs > LAST_PAUSE_MS) return result;
    await sleep(pauseMs);
  }
}
