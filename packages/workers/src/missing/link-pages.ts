import {
  ANSWER_ROUND,
  type BlockingFrames,
  checkRuns,
  type FrameStream,
  GodwitError,
  type GuestMemory,
  type ReceivedFrame,
} from '@godwit/core/pages';
import { closeFd, Errno, receiveFrom, SocketNumbers } from '@godwit/linux/unstable/libc';
import { type ChecksumState, frameStream } from '@godwit/transport/framing';
import { DescriptorStream } from '../descriptor-stream.js';

/** A connection to the source, on which the fault thread asks for pages. */
export interface UrgentLink {
  /** The socket, which the thread closes. */
  readonly fd: number;
  readonly peer: string;
  readonly unread: Uint8Array;
  readonly checksums: ChecksumState;
  /** One 64-bit number: bytes that were received. */
  readonly received: SharedArrayBuffer;
}

/** Pages that have come: [first page, page count, ...] of a block, whose bytes lie one after the other. */
export interface AnsweredPages {
  readonly block: number;
  readonly runs: readonly number[];
}

/**
 * Most bytes that are read beyond those that were asked for, up to the reader's buffer: several answers of a few pages, whose frames then
 * take one call instead of one for each of their parts.
 */
const READ_AHEAD = 128 * 1024;

/**
 * Asks the source for pages, by blocking calls on the thread that serves page faults. It makes little garbage, whose collection lets a vCPU
 * wait, and no promises, since that thread does not return to its event loop.
 */
export class LinkPages {
  readonly descriptor: number;
  readonly #bytes: DescriptorStream;
  readonly #frames: BlockingFrames;
  readonly #memory: GuestMemory;
  readonly #peeked = new Uint8Array(1);
  /** The error after which no page can be asked for any more. */
  #failure: unknown;

  /** Of `memory` only the sizes of its blocks are used; the memory itself is not touched. `pollMs`: see `DescriptorStream.pollFor`. */
  constructor({ fd, peer, unread, checksums, received }: UrgentLink, memory: GuestMemory, pollMs: number) {
    this.descriptor = fd;
    this.#memory = memory;
    this.#bytes = new DescriptorStream(fd, peer, unread, new BigInt64Array(received), READ_AHEAD);
    this.#bytes.pollFor(pollMs);
    this.#frames = frameStream(this.#bytes, { checksums }).blocking as BlockingFrames;
  }

  request(block: number, page: number): void {
    try {
      this.#frames.write({ type: 'requestPages', block, page, pages: 1 });
    } catch (error) {
      this.#failure ??= error;
    }
  }

  /** Whether an answer has begun to come, or the link is lost: `take` waits at most for the rest of it. */
  get readable(): boolean {
    if (this.#failure !== undefined || this.#frames.buffered > 0 || this.#bytes.unreadBytes > 0) return true;
    const { MSG_DONTWAIT, MSG_PEEK } = SocketNumbers;
    // The end of the stream and a failure count as readable too.
    return receiveFrom(this.descriptor, this.#peeked, 1, MSG_DONTWAIT | MSG_PEEK) !== -Errno.EAGAIN;
  }

  /**
   * Reads one answer into `bytes`. Throws when the link is lost, or the source sends a frame that is no valid answer.
   */
  take(bytes: Uint8Array): AnsweredPages {
    // Answers that came before a request failed are still taken.
    if (this.#failure !== undefined && this.#frames.buffered === 0) throw this.#failure;
    const answer = checkAnswer(this.#frames.read(), this.#memory, bytes.length);
    this.#frames.readPayload([bytes.subarray(0, answer.payloadBytes)]);
    return answer;
  }

  close(): void {
    this.#bytes.free();
    closeFd(this.descriptor);
  }
}

/**
 * Reads the next answer on an urgent channel into `bytes`. Throws `GODWIT_LINK_LOST` at its end, and `GODWIT_PROTOCOL` or
 * `GODWIT_OUT_OF_RANGE` for a frame that is no valid answer.
 */
export async function readAnswer(stream: FrameStream, memory: GuestMemory, bytes: Uint8Array): Promise<AnsweredPages> {
  const answer = checkAnswer(await stream.read(), memory, bytes.length);
  await stream.readPayload([bytes.subarray(0, answer.payloadBytes)]);
  return answer;
}

/** Checks the frame of an answer, whose pages may have at most `most` bytes. */
function checkAnswer(
  received: ReceivedFrame | null,
  memory: GuestMemory,
  most: number,
): AnsweredPages & { readonly payloadBytes: number } {
  if (received === null) throw new GodwitError('GODWIT_LINK_LOST', 'the source closed the urgent channel');
  const { frame, payloadBytes } = received;
  if (frame.type !== 'pages' || frame.round !== ANSWER_ROUND) {
    throw new GodwitError('GODWIT_PROTOCOL', `the source sent "${frame.type}" on the urgent channel`);
  }
  const { block, runs } = frame;
  const pages = checkRuns(memory, block, runs, frame.type);
  if (payloadBytes !== pages * memory.pageSize || payloadBytes > most) {
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `an answer on the urgent channel has ${pages} pages of ${memory.pageSize} bytes and a payload of ${payloadBytes}; ` +
        `there may be ${most} bytes, all of them of pages`,
    );
  }
  return { block, runs, payloadBytes };
}
