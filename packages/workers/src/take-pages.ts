import { setImmediate as nextTurn } from 'node:timers/promises';
import { type Clock, type LocalPageChannel, type PageBatch, PageRunList, type PageTaker } from '@godwit/core/pages';

/** Most runs of a frame: with the frame's head they are the entries of one gathering write (IOV_MAX is 1024). */
const FRAME_RUNS = 1023;

/** With encodings, the most batches that are encoded and written at the same time, and the bytes of each. */
const ENCODED_BATCHES = 4;
const ENCODED_BYTES = 2 ** 20;

/** The time between two reports to the main thread of how many pages were taken, in milliseconds. */
const TELL_MS = 5;

export interface TakingParts {
  readonly round: number;
  readonly pass: number;
  /** `PageBatch.whole` */
  readonly whole: boolean;
  readonly clock: Clock;
  /** Most pages of a frame. */
  readonly framePages: number;
  /** Whether the channel encodes pages. */
  readonly encodes: boolean;
  /** Called with the number of pages that were taken; for the last pages before `takePages` resolves. */
  readonly onTaken: (pages: number) => void;
  /** Called when a batch was sent. */
  readonly onSent: () => void;
}

type Batch = PageBatch & { blockIndex: number };

/**
 * Takes pages and sends them, batch by batch, until the queue is empty. Between two batches this thread receives other orders; it never
 * waits for the main thread.
 */
export async function takePages(taker: PageTaker, channel: LocalPageChannel, parts: TakingParts): Promise<void> {
  const { round, pass, whole, clock, encodes, onTaken, onSent } = parts;
  const depth = encodes ? ENCODED_BATCHES : 1;
  const mostPages = encodes
    ? Math.max(1, Math.min(parts.framePages, ENCODED_BYTES / channel.pageSize))
    : parts.framePages;
  const free = Array.from(
    { length: depth },
    (): Batch => ({
      round,
      blockIndex: 0,
      limit: 0,
      whole,
      runs: new PageRunList(FRAME_RUNS),
      holes: new PageRunList(),
    }),
  );
  const sending = new Set<Promise<void>>();
  let untold = 0;
  let toldAt = clock.now();
  taker.begin(pass);
  try {
    for (;;) {
      const batch = free.pop();
      if (batch === undefined) {
        await Promise.race(sending);
        continue;
      }
      const start = clock.now();
      const pages = taker.take(batch, mostPages, FRAME_RUNS);
      channel.totals.scanMs += clock.now() - start;
      if (pages === 0) break;
      untold += pages;
      const sent = channel.send(batch).then(() => {
        free.push(batch);
        onSent();
      });
      sending.add(sent);
      const over = () => sending.delete(sent);
      sent.then(over, over);
      if (depth === 1) await sent;
      if (clock.now() - toldAt >= TELL_MS) {
        onTaken(untold);
        untold = 0;
        toldAt = clock.now();
      }
      await nextTurn();
    }
    await Promise.all(sending);
  } finally {
    // All pages that were taken are reported, also those whose write has failed.
    await Promise.allSettled(sending);
    if (untold > 0) onTaken(untold);
  }
}
