/**
 * Longest time, in milliseconds, that a chain of writes which the kernel takes at once may keep the event loop from
 * turning. A peer that reads as fast as this side writes would otherwise starve timers, cancellation and all other
 * streams, since such writes complete without ever returning to epoll.
 */
const LONGEST_TURN_MS = 2;

let turnStarted = performance.now();
let waiting: (() => void)[] = [];

function turn(): void {
  turnStarted = performance.now();
  const ready = waiting;
  waiting = [];
  for (const resume of ready) resume();
}

/** Calls `resume` now or, when this turn of the event loop has lasted long enough, in the next one. */
export function resumeInFairTurn(resume: () => void): void {
  if (waiting.length === 0 && performance.now() - turnStarted < LONGEST_TURN_MS) {
    resume();
    return;
  }
  if (waiting.push(resume) === 1) setImmediate(turn);
}
