/**
 * Settles as `promise` does, or rejects with a signal's reason as soon as one aborts, and removes its listeners. The work behind the
 * promise goes on after an abort; its later rejection is ignored.
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
 * Calls `work` with a signal that aborts as soon as one of `signals` does. Its listeners are removed when the work has settled, so that
 * a long-lived signal does not keep the listeners of every call.
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
