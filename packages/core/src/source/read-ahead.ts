/** Guests of several vCPUs, each with a pattern of its own: so many are followed at a time. */
const STREAMS = 8;
/** A request so near to the last one of a stream may be its next step. Pages. */
const NEAR = 64;
/** Pages that are sent behind a request: at first, and at most. More would keep the next request waiting. */
const FIRST = 4;
const MOST = 16;

interface Stream {
  block: number;
  /** The last page that was asked for. */
  last: number;
  /** From one request to the next; 0 while it is not known. */
  stride: number;
  /** How many pages were sent behind the last request. */
  window: number;
  /** The request by which the guess proves right: the first page behind those that were sent. */
  expected: number;
}

/**
 * Guesses which pages a guest will wait for next, from those that it has waited for: it follows several sequences with a stride each. Two
 * equal steps make a guess; as long as it proves right, twice as many pages are sent ahead each time.
 */
export class ReadAhead {
  readonly #streams: Stream[] = [];
  /** The distance of the pages that are to follow. */
  stride = 1;

  /** Notes that `page` is asked for. Returns how many pages are to follow it, `stride` apart: 0 when nothing can be guessed. */
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

  /** The stream that this request belongs to, put in front of the others. */
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
