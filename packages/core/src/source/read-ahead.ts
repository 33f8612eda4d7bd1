/** The number of sequences that are followed at a time: each vCPU may have its own. */
const STREAMS = 8;
/** A request at most this far from the last one of a stream may be the stream's next step. Pages. */
const NEAR = 64;
/** Pages that are sent after a requested one, at first and at most. More would make the next request wait. */
const FIRST = 4;
const MOST = 16;

interface Stream {
  block: number;
  /** The last page that was asked for. */
  last: number;
  /** The distance from one request to the next; 0 while it is not known. */
  stride: number;
  /** How many pages were sent behind the last request. */
  window: number;
  /** The request that would confirm the guess: the first page after those that were sent. */
  expected: number;
}

/**
 * Guesses which pages a guest will wait for next, from those that it has waited for: it follows several sequences, each with its own
 * stride. Two equal steps make a guess; each time the guess is confirmed, twice as many pages are sent ahead.
 */
export class ReadAhead {
  readonly #streams: Stream[] = [];
  /** The distance between the pages that are to be sent ahead. */
  stride = 1;

  /** Notes that `page` was requested. Returns how many pages are to be sent after it, `stride` apart: 0 when nothing can be guessed. */
  after(block: number, page: number): number {
    const stream = this.#find(block, page);
    if (stream === undefined) {
      this.#streams.unshift({ block, last: page, stride: 0, window: 0, expected: -1 });
      if (this.#streams.length > STREAMS) this.#streams.pop();
      return 0;
    }
    const step = page - stream.last;
    if (page === stream.expected) stream.window = Math.min(MOST, stream.window * 2);
    else if (step === stream.stride && step !== 0) stream.window = FIRST;
    else {
      if (step !== 0) stream.stride = step;
      stream.window = 0;
    }
    stream.last = page;
    stream.expected = stream.window === 0 ? -1 : page + stream.stride * (stream.window + 1);
    this.stride = stream.stride;
    return stream.window;
  }

  /** The stream to which this request belongs, moved to the front of the list. */
  #find(block: number, page: number): Stream | undefined {
    let at = this.#streams.findIndex((stream) => stream.block === block && stream.expected === page);
    if (at === -1) {
      at = this.#streams.findIndex((stream) => stream.block === block && Math.abs(page - stream.last) <= NEAR);
    }
    if (at === -1) return undefined;
    const [stream] = this.#streams.splice(at, 1) as [Stream];
    this.#streams.unshift(stream);
    return stream;
  }
}
