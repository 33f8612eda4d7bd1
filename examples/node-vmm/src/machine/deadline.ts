import { GodwitError } from '@godwit/core';

/**
 * Waits for `work`, at most `milliseconds` and until `signal` aborts.
 *
 * @throws GodwitError GODWIT_VM_FAILED with `what` after `milliseconds`; the signal's reason
 */
export async function withinMilliseconds<T>(
  milliseconds: number,
  what: string,
  work: Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  let onAbort: (() => void) | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new GodwitError('GODWIT_VM_FAILED', `${what} within ${milliseconds} ms`)),
      milliseconds,
    );
    onAbort = () => reject(signal?.reason);
    if (signal?.aborted === true) onAbort();
    else signal?.addEventListener('abort', onAbort);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
    if (onAbort !== undefined) signal?.removeEventListener('abort', onAbort);
  }
}
