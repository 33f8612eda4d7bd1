import type { FrameStream } from './frame-stream.js';
import type { PageStream } from './page-stream.js';

/**
 * How long a handshake may take where nobody says otherwise, in milliseconds: the answer to a hello at the source (`prepare`
 * included), a hello and its page channels at the destination, and the first frame of a stream at a listener. One number:
 * a side that gave up earlier than the other would end what the other still waits for.
 */
export const HANDSHAKE_TIMEOUT_MS = 30_000;

/**
 * What one migration talks over: a control stream, and page channels beside it. With no page channels, pages travel on
 * the control stream (a pipe, a file).
 */
export interface MigrationLink {
  readonly control: FrameStream;
  readonly pageChannels: readonly PageStream[];
  /** For messages: `tcp://192.0.2.1:4444`. */
  readonly peer: string;
}

export interface LinkRequest {
  readonly migrationId: string;
  readonly pageChannels: number;
  /** 1, 2, 3, ...: which of this migration's connections this is. Every page channel names it. */
  readonly connection: number;
  /** Whether every stream of the link is to carry checksums (`FrameStream.checksums`). Default: false. */
  readonly checksums?: boolean;
}

/** Makes the link from the source's side. Called again to reconnect. */
export interface LinkConnector {
  connect(request: LinkRequest, signal: AbortSignal): Promise<MigrationLink>;
}

/**
 * Takes links at the destination. `accept` resolves with a control stream whose first frame has not been read yet;
 * page channels that name the migration join later through `IncomingLink.pageChannels`.
 */
export interface LinkListener {
  accept(signal: AbortSignal): Promise<IncomingLink>;
  close(): Promise<void>;
}

export interface IncomingLink {
  readonly control: FrameStream;
  readonly peer: string;
  /**
   * Resolves with the `count` page channels of `migrationId`, in the order of their index: those that name the same
   * connection as this link's hello.
   */
  pageChannels(migrationId: string, count: number, signal: AbortSignal): Promise<readonly PageStream[]>;
}
