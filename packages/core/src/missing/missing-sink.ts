import type { FrameStream } from '../link/frame-stream.js';
import type { AnyPagesFrame } from '../protocol/frame.js';

/**
 * Puts missing pages into guest memory while the guest runs: each page appears whole and once, and a page that is already there is dropped.
 * Once the service ends, every page is dropped. Each channel has one sink, and the channel's thread never reads or
 * writes the memory itself.
 */
export interface MissingSink {
  /** Memory of this channel, of at least `MAXIMUM_PAYLOAD` bytes, into which pages are read before they are put into guest memory. */
  readonly bytes: Uint8Array;
  /** Puts pages whose bytes begin at `offset` of `bytes`. */
  put(block: number, page: number, pageCount: number, offset: number): void;
  /** Puts these pages as zero pages. */
  putZero(block: number, page: number, pageCount: number): void;
}

/** Reads the payload of a frame of pages, which fits into the sink's `bytes`, and puts the pages into guest memory. */
export async function putPayload(
  sink: MissingSink,
  stream: FrameStream,
  { block, runs }: AnyPagesFrame,
  payloadBytes: number,
  pageSize: number,
): Promise<void> {
  await stream.readPayload([sink.bytes.subarray(0, payloadBytes)]);
  putRuns(sink, block, runs, pageSize);
}

/** Puts the pages of `runs` into guest memory; their bytes are at the beginning of the sink's `bytes`. */
export function putRuns(sink: MissingSink, block: number, runs: readonly number[], pageSize: number): void {
  let offset = 0;
  for (let i = 0; i < runs.length; i += 2) {
    const pages = runs[i + 1] as number;
    sink.put(block, runs[i] as number, pages, offset);
    offset += pages * pageSize;
  }
}
