import type { DirtyBitmap } from '../memory/dirty-bitmap.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { ThreadRecipe } from '../thread-recipe.js';
import type { FrameStream } from './frame-stream.js';
import type { PageStream } from './page-stream.js';

/**
 * Default time limit of a handshake, in milliseconds. It limits the wait for the answer to a hello at the source (`prepare` included), for
 * a hello and its page channels at the destination, and for the first frame of a stream at a listener. Both sides have the same limit,
 * since a side with a shorter one would end a handshake for which the other still waits.
 */
export const HANDSHAKE_TIMEOUT_MS = 30_000;

/**
 * The streams of one connection: a control stream, and page channels. Without page channels (a pipe, a file) pages are sent on the
 * control stream.
 */
export interface MigrationLink {
  readonly control: FrameStream;
  readonly pageChannels: readonly PageStream[];
  /** The peer's address, for messages: `tcp://192.0.2.1:4444`. */
  readonly peer: string;
  /**
   * Makes the recipe of the `PageTarget` that takes the pages of a background snapshot on another thread, beside the streams; absent where
   * the link has none. Called at most once, after the answer to the hello. No page comes over the streams then, and each end of a round
   * counts none; the first end of a round makes durable what the target has written.
   */
  pageTarget?(): ThreadRecipe;
  /**
   * Notes the pages that the guest needs first where it is restored, for each block in the hello's order; absent where the link keeps
   * nothing. Called at most once, after the answer to the hello. The bitmaps do not change until the link is closed.
   */
  keepWorkingSet?(pages: DirtyBitmaps): void;
}

/** What a source asks a connector for. */
export interface LinkRequest {
  readonly migrationId: string;
  readonly pageChannels: number;
  /** Number of this connection of the migration: 1, 2, 3, ... Every page channel names it. */
  readonly connection: number;
  /** Whether every stream of the link must have checksums (`FrameStream.checksums`). Default: false. */
  readonly checksums?: boolean;
}

/** Makes the links of a migration at its source. `connect` is called again to reconnect; it rejects when `signal` aborts. */
export interface LinkConnector {
  /**
   * The number of page channels that suits this host for a migration of `memory`, called when `pageChannels` is `'auto'`. Without this
   * method `'auto'` means none.
   */
  pageChannelsFor?(memory: GuestMemory): number;
  /** Whether the streams of its links are plain sockets, which other threads can take over. Default false. */
  readonly plainSockets?: boolean;
  /** Makes a connection: its control stream, and as many page channels as `request` asks for. Rejects with `GODWIT_CONNECT_FAILED`. */
  connect(request: LinkRequest, signal: AbortSignal): Promise<MigrationLink>;
}

/**
 * Accepts links at the destination. `accept` resolves with a control stream whose first frame was not read yet; the page channels that
 * name the migration come later, from `IncomingLink.pageChannels`. It rejects when `signal` aborts.
 */
export interface LinkListener {
  /**
   * Resolves with the next connection. Rejects with `GODWIT_CANCELLED` when `signal` aborts, and with `GODWIT_INVALID_STATE` once the
   * listener is closed.
   */
  accept(signal: AbortSignal): Promise<IncomingLink>;
  /** Accepts no further connections; those that were accepted stay open. */
  close(): Promise<void>;
}

/** Pages that come while the guest runs. */
export interface ComingPages {
  /** Which pages of each block have contents, in the hello's order; all others are zero. */
  readonly contents: readonly DirtyBitmap[];
  /** The pages of each block that the guest needs first, in the hello's order; undefined where that is not known. */
  readonly workingSet?: readonly DirtyBitmap[] | undefined;
  /** The recipe of the `PageSource` that reads these pages, on any thread. */
  readonly source: ThreadRecipe;
}

/** A connection of a migration at the destination: the control stream, and the page channels that name this migration. */
export interface IncomingLink {
  readonly control: FrameStream;
  readonly peer: string;
  /**
   * Returns pages that can come while the guest runs here; absent where the link cannot do this. Called at most once, before the answer to
   * the hello: the source then sends no pages, and the link stays open until the destination closes it.
   */
  comingPages?(): Promise<ComingPages>;
  /**
   * Resolves with the `count` page channels of `migrationId` that name the same connection as this link's hello, in the order of their
   * index.
   */
  pageChannels(migrationId: string, count: number, signal: AbortSignal): Promise<readonly PageStream[]>;
}
