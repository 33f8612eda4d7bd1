import type { FrameStream } from '../link/frame-stream.js';
import type { AnyPagesFrame } from '../protocol/frame.js';

/**
 * Puts pages into guest memory in which they are missing, while the guest runs: each appears whole and once, and one that is there
 * already is dropped, also when none is missing any more and the service has ended. One for each channel, whose thread never reads or writes the memory itself.
 */
export interface MissingSink {
  /** Memory of this channel, of at least `MAXIMUM_PAYLOAD` bytes, that pages are read into before they are put. */
  readonly bytes: Uint8Array;
  /** Puts pages whose bytes begin at `offset` of `bytes`. */
  put(block: number, page: number, pageCount: number, offset: number): void;
  /** Says that these pages are zero. */
  putZero(block: number, page: number, pageCount: number): void;
}

/** Reads the payload of a frame of pages, which fits into the sink's `bytes`, and puts them there. */
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

/** Puts the pages of `runs` there, whose bytes are at the beginning of the sink's. */
export function putRuns(sink: MissingSink, block: number, runs: readonly number[], pageSize: number): void {
  let offset = 0;
  for (let i = 0; i < runs.length; i += 2) {
    const pages = runs[i + 1] as number;
    sink.put(block, runs[i] as number, pages, offset);
    offset += pages * pageSize;
  }
}
