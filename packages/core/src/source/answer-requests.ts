import { checkRuns } from '../destination/run-check.js';
import { GodwitError } from '../errors.js';
import type { BlockingFrames, FrameStream } from '../link/frame-stream.js';
import { pagesOf, type RamBlock } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import { PageRunList } from '../memory/page-run.js';
import { MOST_REQUESTED, type PagesFrame } from '../protocol/frame.js';
import type { PageQueue } from '../queue/page-queue.js';
import { ReadAhead } from './read-ahead.js';

/** The round number in the frames of an answer, which belong to no round. */
export const ANSWER_ROUND = 0;

/**
 * Most pages of a frame that are sent ahead. In a larger frame the page that is waited for next would wait for the others of its frame; more
 * frames take more time. With 8 pages the median fault of a sweeping guest took 32 to 64 us in 6 of 6 runs; with 4 in 4 of 6.
 */
const AHEAD_FRAME_PAGES = 8;

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
  /** The stream without promises, where it has such calls: a thread that answers makes less garbage, whose collection would stop it. */
  readonly #blocking: BlockingFrames | undefined;
  readonly #parts: AnsweringParts;
  readonly #ahead = new ReadAhead();
  readonly #taken = new PageRunList(MOST_REQUESTED);
  /** The runs and the contents of the frame that is written next. */
  #runs: number[] = [];
  #contents: Uint8Array[] = [];

  constructor(stream: FrameStream, parts: AnsweringParts) {
    this.#stream = stream;
    this.#blocking = stream.blocking;
    this.#parts = parts;
  }

  /** Waits for a request and answers it. Resolves with false at the end of the stream. */
  async next(): Promise<boolean> {
    const { windows, queue, open } = this.#parts;
    const { memory } = windows;
    const received = this.#blocking === undefined ? await this.#stream.read() : this.#blocking.read();
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
    const taken = this.#taken;
    taken.clear();
    queue.takeAnswer(block, page, pages, taken);
    this.#add(block, page, pages);
    if (!this.#writeNow(block)) await this.#write(block);
    taken.clear();
    const last = page + pages - 1;
    const count = this.#ahead.after(block, last);
    const blockPages = pagesOf(memory, memory.blocks[block] as RamBlock);
    takeAhead(queue, block, last, count, this.#ahead.stride, taken, blockPages);
    await this.#writeTaken(block);
    return true;
  }

  /** Writes the taken pages, in frames of at most `AHEAD_FRAME_PAGES`. */
  async #writeTaken(block: number): Promise<void> {
    const taken = this.#taken;
    let pages = 0;
    for (let i = 0; i < taken.length; i++) {
      let page = taken.firstPage(i);
      for (let left = taken.runPages(i); left > 0; ) {
        const count = Math.min(left, AHEAD_FRAME_PAGES - pages);
        this.#add(block, page, count);
        page += count;
        left -= count;
        pages += count;
        if (pages < AHEAD_FRAME_PAGES) continue;
        pages = 0;
        if (!this.#writeNow(block)) await this.#write(block);
      }
    }
    if (pages > 0 && !this.#writeNow(block)) await this.#write(block);
  }

  #add(block: number, page: number, pages: number): void {
    this.#runs.push(page, pages);
    this.#parts.windows.appendViews(this.#contents, block, page, pages);
  }

  /** Writes the frame if the stream's calls block; returns false otherwise. */
  #writeNow(block: number): boolean {
    if (this.#blocking === undefined) return false;
    const contents = this.#contents;
    this.#blocking.write(this.#nextFrame(block), contents);
    return true;
  }

  async #write(block: number): Promise<void> {
    const contents = this.#contents;
    await this.#stream.write(this.#nextFrame(block), contents);
  }

  /** The frame for the pages that were added. */
  #nextFrame(block: number): PagesFrame {
    const frame: PagesFrame = { type: 'pages', round: ANSWER_ROUND, block, runs: this.#runs };
    this.#runs = [];
    this.#contents = [];
    return frame;
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
  blockPages: number,
): void {
  for (let i = 1; i <= count; i++) {
    const next = page + stride * (stride > 0 ? i : count + 1 - i);
    if (next >= 0 && next < blockPages) queue.takeAnswer(block, next, 1, taken);
  }
}
