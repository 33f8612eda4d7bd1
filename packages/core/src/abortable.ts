/**
 * Settles as `promise` does, or rejects with the signal's reason as soon as it aborts. The promise itself goes on;
 * whoever made it must cope with nobody waiting (its rejection is then swallowed here).
 */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    if (signal.aborted) {
      promise.catch(() => {});
      onAbort();
      return;
    }
    signal.addEventListener('abort', onAbort, { once: true });
    promise.then(
      (value) => {
        signal.removeEventListener('abort', onAbort);
        resolve(value);
      },
      (error: unknown) => {
        signal.removeEventListener('abort', onAbort);
        reject(error);
      },
    );
  });
}

/**
 * Does `work` with a signal that aborts as soon as one of `signals` does. Nothing of it stays with them when the work has settled:
 * a signal that outlives many of these would otherwise keep them all.
 */
export async function underAll<T>(
  signals: readonly AbortSignal[],
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const either = new AbortController();
  const listeners = signals.map((signal) => {
    const onAbort = () => either.abort(signal.reason);
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
    return () => signal.removeEventListener('abort', onAbort);
  });
  try {
    return await work(either.signal);
  } finally {
    for (const remove of listeners) remove();
  }
}
