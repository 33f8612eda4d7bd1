import type { Writable } from 'node:stream';
import type { MigrationEvent, Progress } from '@godwit/core';
import { eventText, progressText } from './progress-text.js';

/** The stream on which progress is shown: a terminal, a file or a pipe. */
export interface ProgressStream extends Writable {
  readonly isTTY?: boolean;
  readonly columns?: number;
}

/** The time between two lines of progress where lines are not overwritten, in milliseconds. */
const LINE_MS = 1000;

/** Shows the events of a migration. */
export interface ProgressOutput {
  event(event: MigrationEvent): void;
  /** Called before other text is written. */
  end(): void;
}

export function jsonProgress(stream: Writable): ProgressOutput {
  return {
    event: (event) => stream.write(`${JSON.stringify({ event })}\n`),
    end: () => {},
  };
}

/**
 * Output for people: on a terminal one line that is updated in place, with events that have a line of their own above it; elsewhere a
 * line a second.
 */
export function textProgress(stream: ProgressStream, now: () => number = () => performance.now()): ProgressOutput {
  const inPlace = stream.isTTY === true;
  let range: readonly [number, number] | undefined;
  let lastLineAt = Number.NEGATIVE_INFINITY;
  let shown = false;

  const clear = (): void => {
    if (shown) stream.write('\r\u001b[K');
    shown = false;
  };
  const line = (text: string): void => {
    clear();
    stream.write(`${text}\n`);
  };
  const progress = (progress: Progress): void => {
    if (inPlace) {
      // The last column stays free: a full line would wrap, and could not be overwritten.
      const columns = Math.max(1, (stream.columns ?? 80) - 1);
      stream.write(`\r${progressText(progress, range, columns).slice(0, columns)}\u001b[K`);
      shown = true;
    } else if (now() - lastLineAt >= LINE_MS) {
      lastLineAt = now();
      line(progressText(progress, range));
    }
  };

  return {
    event(event) {
      if (event.type === 'progress') progress(event.progress);
      if (event.type === 'round') range = event.round.predictedDowntimeRangeMs;
      const text = eventText(event);
      if (text !== undefined) line(text);
    },
    end: clear,
  };
}
