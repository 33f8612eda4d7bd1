import { setMaxListeners } from 'node:events';
import {
  ERROR_CODES,
  type ErrorCode,
  type ErrorFrame,
  type FrameStream,
  GodwitError,
  type LinkRequest,
  type MigrationLink,
} from '@godwit/core';
import { type FrameStreamOptions, frameStream } from '../framing/frame-stream.js';
import type { Transport } from '../stream/byte-stream.js';
import { PeekedFrameStream } from './peeked-frame-stream.js';

/** Page channels that are connected at a time: a destination's listener has a bounded number of handshakes. */
const MOST_CONNECTS = 16;

/** How long a broken page channel is read for the destination's reason. Milliseconds. */
const REFUSAL_MS = 1_000;

interface Dialled {
  readonly stream: FrameStream;
  readonly peer: string;
}

/** One attempt to make all streams of a link. The first failure of a stream is the failure of the attempt. */
export class LinkAttempt {
  readonly #transport: Transport;
  readonly #framing: FrameStreamOptions;
  readonly #request: LinkRequest;
  readonly #giveUp = new AbortController();
  readonly #streams = new Set<FrameStream>();
  readonly #failed: Promise<never>;
  #reject: (error: GodwitError) => void = () => undefined;
  #stands = false;

  constructor(transport: Transport, framing: FrameStreamOptions, request: LinkRequest) {
    this.#transport = transport;
    this.#framing = framing;
    this.#request = request;
    this.#failed = new Promise((_, reject) => {
      this.#reject = reject;
    });
    this.#failed.catch(() => undefined);
    // Each connect under way adds a listener to this signal; many listeners are no leak here.
    setMaxListeners(0, this.#giveUp.signal);
  }

  /** Drops every stream, also those that are still being connected, and also after the link was made. */
  fail(error: unknown): void {
    if (this.#giveUp.signal.aborted) return;
    const failure = GodwitError.wrap(error, 'GODWIT_CONNECT_FAILED', 'making the link failed');
    this.#giveUp.abort(failure);
    for (const stream of this.#streams) stream.abort(failure);
    this.#reject(failure);
  }

  async link(): Promise<MigrationLink> {
    const making = Promise.all([this.#dial(), this.#pageChannels()]);
    const [{ stream: control, peer }, pageChannels] = await Promise.race([this.#failed, making]);
    this.#stands = true;
    return { control, pageChannels, peer };
  }

  async #pageChannels(): Promise<readonly FrameStream[]> {
    const { pageChannels: count } = this.#request;
    const channels: FrameStream[] = new Array(count);
    let next = 0;
    const lane = async (): Promise<void> => {
      while (next < count) {
        const index = next++;
        channels[index] = await this.#attach(index);
      }
    };
    await Promise.all(Array.from({ length: Math.min(MOST_CONNECTS, count) }, lane));
    return channels;
  }

  async #attach(index: number): Promise<FrameStream> {
    const { migrationId, connection } = this.#request;
    const { stream } = await this.#dial();
    const heard = stream.read();
    // A destination sends nothing on a page channel, except an error when it refuses the channel: that error then ends
    // the link.
    const refused = heard.then(
      (received) => {
        if (received?.frame.type === 'error') this.fail(refusedChannel(received.frame, index));
        else if (received === null && !this.#stands) this.fail(closedChannel(index));
      },
      (error: unknown) => {
        if (!this.#stands) this.fail(closedChannel(index, error));
      },
    );
    try {
      await stream.write({ type: 'attach', migrationId, index, connection });
    } catch (error) {
      await settledWithin(refused, REFUSAL_MS);
      this.fail(error);
      throw error;
    }
    return new PeekedFrameStream(stream, heard);
  }

  async #dial(): Promise<Dialled> {
    const { signal } = this.#giveUp;
    try {
      signal.throwIfAborted();
      const carrier = await this.#transport.connect(signal);
      const stream = frameStream(carrier, this.#framing);
      if (signal.aborted) {
        stream.abort(signal.reason);
        throw signal.reason;
      }
      this.#streams.add(stream);
      return { stream, peer: carrier.peer };
    } catch (error) {
      this.fail(error);
      throw error;
    }
  }
}

async function settledWithin(promise: Promise<void>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([promise, late]);
  clearTimeout(timer);
}

/**
 * The error for a channel that the destination has closed: a listener without a free file descriptor accepts and closes
 * at once, and its program does not notice.
 */
function closedChannel(index: number, cause?: unknown): GodwitError {
  const how = cause instanceof Error ? `: ${cause.message}` : '';
  return new GodwitError(
    'GODWIT_CONNECT_FAILED',
    `the destination closed page channel ${index} before the link stood${how}; it may have too many open files (EMFILE): raise its limit (ulimit -n), or take fewer page channels`,
    { cause },
  );
}

/** An unknown code, of a newer destination, is named in the message. */
function refusedChannel({ code, message, retry }: ErrorFrame, index: number): GodwitError {
  const known = (ERROR_CODES as readonly string[]).includes(code);
  return new GodwitError(
    known ? (code as ErrorCode) : 'GODWIT_INTERNAL',
    `the destination refused page channel ${index}: ${known ? message : `${code}: ${message}`}`,
    { remote: true, retry },
  );
}
