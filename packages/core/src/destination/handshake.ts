import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import type { IncomingLink } from '../link/migration-link.js';
import type { PageStream } from '../link/page-stream.js';
import type { HelloFrame } from '../protocol/frame.js';
import type { SourceFrames } from './source-frames.js';

export interface HandshakeParts {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** How long a source that has connected may take, for each of the two. */
  readonly handshakeTimeoutMs: number;
}

/** The first frame of a source. */
export async function readHello(frames: SourceFrames, parts: HandshakeParts): Promise<HelloFrame> {
  const { frame } = await awaited(frames.next(), '"hello"', parts);
  if (frame.type !== 'hello') {
    throw new GodwitError('GODWIT_PROTOCOL', `expected "hello" as the first frame, got "${frame.type}"`);
  }
  return frame;
}

/** The page channels that the hello announces, in the order of their index. Those that come too late are dropped. */
export async function attachChannels(
  link: IncomingLink,
  hello: HelloFrame,
  frames: SourceFrames,
  parts: HandshakeParts,
): Promise<readonly PageStream[]> {
  const giveUp = new AbortController();
  const attaching = link.pageChannels(hello.migrationId, hello.pageChannels, giveUp.signal);
  try {
    return await awaited(frames.during(attaching), `${hello.pageChannels} page channels`, parts);
  } catch (error) {
    const reason = GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'the page channels are not needed any more');
    giveUp.abort(reason);
    attaching.then(
      (channels) => {
        for (const stream of channels) stream.abort(reason);
      },
      () => {},
    );
    throw error;
  }
}

function awaited<T>(
  promise: Promise<T>,
  what: string,
  { clock, signal, handshakeTimeoutMs }: HandshakeParts,
): Promise<T> {
  const late = () =>
    new GodwitError(
      'GODWIT_TIMEOUT',
      `no ${what} from the source within handshakeTimeoutMs (${handshakeTimeoutMs} ms)`,
    );
  return abortable(inTime(promise, clock, handshakeTimeoutMs, late), signal);
}
