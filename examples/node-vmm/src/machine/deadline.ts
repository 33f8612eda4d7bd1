import { GodwitError } from '@godwit/core';

/** Waits for `work`, but not for ever. @throws GodwitError GODWIT_VM_FAILED with `what` after `milliseconds` */
export async function withinMilliseconds<T>(milliseconds: number, what: string, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new GodwitError('GODWIT_VM_FAILED', `${what} within ${milliseconds} ms`)),
      milliseconds,
    );
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
