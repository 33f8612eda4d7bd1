import { checkRuns } from '../destination/run-check.js';
import { GodwitError } from '../errors.js';
import type { FrameStream } from '../link/frame-stream.js';
import { pagesOf, type RamBlock } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import { PageRunList } from '../memory/page-run.js';
import { MOST_REQUESTED } from '../protocol/frame.js';
import type { PageQueue } from '../queue/page-queue.js';
import { ReadAhead } from './read-ahead.js';

/** The round number in the frames of an answer, which belong to no round. */
export const ANSWER_ROUND = 0;

/**
 * Pages that are sent ahead go in small frames: usually the first of them is waited for next, and should not wait until the last was
 * sent.
 */
const AHEAD_FRAME_PAGES = 4;

export interface AnsweringParts {
  readonly windows: Pick<MemoryWindows, 'memory' | 'appendViews'>;
  /** The owed pages, out of which an answer takes its pages. */
  readonly queue: PageQueue;
  /**
   * One word, which is 1 while the guest will not run at the source again as far as the source knows; pages can be requested only then.
   */
  readonly open: Int32Array;
  /** Called after each request was answered. */
  readonly onAnswer?: () => void;
}

/**
 * Answers the destination's requests for pages until the stream ends: first with the requested pages, also if they were sent before, and
 * then with pages that are likely to be requested next and are still owed. Any thread may call it. Rejects with `GODWIT_PROTOCOL` or
 * `GODWIT_OUT_OF_RANGE` for an impossible request, and with the stream's error.
 */
export async function answerRequests(stream: FrameStream, parts: AnsweringParts): Promise<void> {
  const answers = new RequestAnswers(stream, parts);
  while (await answers.next()) parts.onAnswer?.();
}

/** Answers requests one by one: see `answerRequests`. */
export class RequestAnswers {
  readonly #stream: FrameStream;
  readonly #parts: AnsweringParts;
  readonly #ahead = new ReadAhead();
  readonly #taken = new PageRunList(MOST_REQUESTED);

  constructor(stream: FrameStream, parts: AnsweringParts) {
    this.#stream = stream;
    this.#parts = parts;
  }

  /** Waits for a request and answers it. Resolves with false at the end of the stream. */
  async next(): Promise<boolean> {
    const { windows, queue, open } = this.#parts;
    const { memory } = windows;
    const received = await this.#stream.read();
    if (received === null) return false;
    const { frame } = received;
    if (frame.type !== 'requestPages') {
      throw new GodwitError('GODWIT_PROTOCOL', `the destination sent "${frame.type}" on the urgent channel`);
    }
    if (Atomics.load(open, 0) === 0) {
      throw new GodwitError('GODWIT_PROTOCOL', 'the destination asked for pages of a guest that was not handed over');
    }
    const { block, page, pages } = frame;
    if (pages > MOST_REQUESTED) {
      throw new GodwitError(
        'GODWIT_LIMIT_EXCEEDED',
        `the destination asked for ${pages} pages at once; it may ask for ${MOST_REQUESTED}`,
      );
    }
    checkRuns(memory, block, [page, pages], frame.type);
    this.#taken.clear();
    queue.takeAnswer(block, page, pages, this.#taken);
    const asked: Uint8Array[] = [];
    windows.appendViews(asked, block, page, pages);
    await this.#stream.write({ type: 'pages', round: ANSWER_ROUND, block, runs: [page, pages] }, asked);
    this.#taken.clear();
    takeAhead(
      queue,
      block,
      page + pages - 1,
      this.#ahead.after(block, page + pages - 1),
      this.#ahead.stride,
      this.#taken,
      {
        blockPages: pagesOf(memory, memory.blocks[block] as RamBlock),
      },
    );
    for (const runs of inFrames(this.#taken)) {
      const more: Uint8Array[] = [];
      for (let i = 0; i < runs.length; i += 2)
        windows.appendViews(more, block, runs[i] as number, runs[i + 1] as number);
      await this.#stream.write({ type: 'pages', round: ANSWER_ROUND, block, runs }, more);
    }
    return true;
  }
}

/** Takes the pages that follow `page`, `stride` apart, as far as they are in the block and still owed, in ascending order. */
function takeAhead(
  queue: PageQueue,
  block: number,
  page: number,
  count: number,
  stride: number,
  taken: PageRunList,
  { blockPages }: { readonly blockPages: number },
): void {
  for (let i = 1; i <= count; i++) {
    const next = page + stride * (stride > 0 ? i : count + 1 - i);
    if (next >= 0 && next < blockPages) queue.takeAnswer(block, next, 1, taken);
  }
}

/** Cuts the pages into frames of at most `AHEAD_FRAME_PAGES`: flat [first page, page count, ...] of each. */
function* inFrames(taken: PageRunList): Generator<number[]> {
  let runs: number[] = [];
  let pages = 0;
  for (let i = 0; i < taken.length; i++) {
    let page = taken.firstPage(i);
    for (let left = taken.runPages(i); left > 0; ) {
      const count = Math.min(left, AHEAD_FRAME_PAGES - pages);
      runs.push(page, count);
      page += count;
      left -= count;
      pages += count;
      if (pages < AHEAD_FRAME_PAGES) continue;
      yield runs;
      runs = [];
      pages = 0;
    }
  }
  if (runs.length > 0) yield runs;
}
