/**
 * Under npm one Ctrl-C comes twice, from the terminal and from npm: a second signal within this time counts as the same.
 * Milliseconds.
 */
const SAME_MS = 500;

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * Calls `first` for the first signal that asks this process to end, and `again` for the following ones.
 *
 * @returns a function that removes the handlers
 */
export function onInterruption(
  first: (signal: NodeJS.Signals) => void,
  again: (signal: NodeJS.Signals) => void,
): () => void {
  let firstAt: number | undefined;
  const onSignal = (signal: NodeJS.Signals): void => {
    const now = performance.now();
    if (firstAt === undefined) {
      firstAt = now;
      first(signal);
    } else if (now - firstAt > SAME_MS) {
      again(signal);
    }
  };
  for (const signal of SIGNALS) process.on(signal, onSignal);
  return () => {
    for (const signal of SIGNALS) process.off(signal, onSignal);
  };
}
