import { ANSWER_ROUND, checkRuns, type FrameStream, GodwitError, type GuestMemory } from '@godwit/core/pages';
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

/** Asks the source for pages, by blocking calls on the thread that serves page faults. */
export class LinkPages {
  readonly descriptor: number;
  readonly #bytes: DescriptorStream;
  readonly #stream: FrameStream;
  readonly #memory: GuestMemory;
  readonly #peeked = new Uint8Array(1);
  /** The error after which no page can be asked for any more. */
  #failure: unknown;

  /** Of `memory` only the sizes of its blocks are used; the memory itself is not touched. */
  constructor({ fd, peer, unread, checksums, received }: UrgentLink, memory: GuestMemory) {
    this.descriptor = fd;
    this.#memory = memory;
    // Nothing is read ahead: a poll of the socket would not show bytes that were read already.
    this.#bytes = new DescriptorStream(fd, peer, unread, new BigInt64Array(received), 0);
    this.#stream = frameStream(this.#bytes, { checksums });
  }

  request(block: number, page: number): void {
    this.#stream.write({ type: 'requestPages', block, page, pages: 1 }).catch((error: unknown) => {
      this.#failure ??= error;
    });
  }

  /** Whether `take` would return or throw without waiting. */
  get readable(): boolean {
    if (this.#failure !== undefined) return true;
    const { MSG_DONTWAIT, MSG_PEEK } = SocketNumbers;
    // The end of the stream and a failure count as readable too.
    return receiveFrom(this.descriptor, this.#peeked, 1, MSG_DONTWAIT | MSG_PEEK) !== -Errno.EAGAIN;
  }

  /**
   * Reads one answer into `bytes`. Rejects when the link is lost, or the source sends a frame that is no valid answer.
   */
  async take(bytes: Uint8Array): Promise<AnsweredPages> {
    if (this.#failure !== undefined) throw this.#failure;
    return readAnswer(this.#stream, this.#memory, bytes);
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
  const received = await stream.read();
  if (received === null) throw new GodwitError('GODWIT_LINK_LOST', 'the source closed the urgent channel');
  const { frame, payloadBytes } = received;
  if (frame.type !== 'pages' || frame.round !== ANSWER_ROUND) {
    throw new GodwitError('GODWIT_PROTOCOL', `the source sent "${frame.type}" on the urgent channel`);
  }
  const { block, runs } = frame;
  const pages = checkRuns(memory, block, runs, frame.type);
  if (payloadBytes !== pages * memory.pageSize || payloadBytes > bytes.length) {
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `an answer on the urgent channel has ${pages} pages of ${memory.pageSize} bytes and a payload of ${payloadBytes}; ` +
        `there may be ${bytes.length} bytes, all of them of pages`,
    );
  }
  await stream.readPayload([bytes.subarray(0, payloadBytes)]);
  return { block, runs };
}
