/**
 * Settles as `promise` does, or rejects with a signal's reason as soon as one aborts, and takes its listeners back. The promise
 * itself goes on; whoever made it must cope with nobody waiting (its rejection is then swallowed here).
 */
export function abortable<T>(promise: Promise<T>, ...signals: readonly AbortSignal[]): Promise<T> {
  const aborted = signals.find((signal) => signal.aborted);
  if (aborted !== undefined) {
    promise.catch(() => {});
    return Promise.reject(aborted.reason);
  }
  return new Promise<T>((resolve, reject) => {
    const leave = () => {
      for (const signal of signals) signal.removeEventListener('abort', onAbort);
    };
    const onAbort = (event: Event) => {
      leave();
      reject((event.target as AbortSignal).reason);
    };
    for (const signal of signals) signal.addEventListener('abort', onAbort, { once: true });
    promise.then(
      (value) => {
        leave();
        resolve(value);
      },
      (error: unknown) => {
        leave();
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
