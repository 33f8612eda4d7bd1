import type { GodwitError } from '@godwit/core';

/** A connected stream socket that Node does not know of any more. Whoever has it closes it. */
export interface DetachedDescriptor {
  readonly fd: number;
  /** Bytes that had been read already and were not handed out. They come before those of `fd`. */
  readonly unread: Uint8Array;
}

/**
 * An ordered, reliable stream of bytes in each direction: all that a migration asks of a carrier.
 *
 * Guarantees, for every implementation:
 *
 * - **Order.** Bytes arrive exactly once and in the order of the `write` calls; chunks of overlapping calls never mix.
 * - **Back-pressure.** `write` resolves when the carrier has taken the bytes; a slow reader makes it resolve late. What
 *   the carrier holds on its own is bounded by its buffers, not by what was written.
 * - **Borrowing.** Chunks are read in place until the promise settles, and may be guest memory that changes meanwhile:
 *   each byte is taken at some moment between the call and the end of the promise. After it settled (for whatever
 *   reason), they are never touched again. The same holds for `read` and `into`.
 * - **Half-close.** `close` ends our direction only. Reading goes on until the peer ends its own.
 * - **Abort.** Every pending call settles at once, and nothing borrowed is touched from then on.
 * - **No handle left.** Once both directions have ended, or after `abort`, nothing keeps the process alive.
 *
 * Calls fail with a `GodwitError`: `GODWIT_LINK_LOST` when the carrier broke, the reason given to `abort` after that,
 * `GODWIT_INVALID_STATE` for a `write` after `close` or a second `read` at the same time.
 */
export interface ByteStream {
  /** For messages: `tcp://192.0.2.1:4444`. */
  readonly peer: string;
  /** Writes all bytes of all chunks. See back-pressure and borrowing above. */
  write(chunks: readonly Uint8Array[]): Promise<void>;
  /**
   * Reads into `into` and resolves with the number of bytes: from 1 to `into.length`, or 0 when the peer has ended its
   * direction (again and again, then). One call at a time; `into` must not be empty.
   *
   * `wanted` is a hint: the caller will read on until it has that many bytes. A stream may wait for them and fill
   * `into` with fewer wake-ups; to resolve with fewer bytes is always right.
   */
  read(into: Uint8Array, wanted?: number): Promise<number>;
  /**
   * Puts bytes of the stream into a file, past this process's memory: from 1 to `most`, at `position`; resolves with their number, or 0
   * when the peer has ended its direction. As `read` otherwise. A stream without it is read, and what was read is written to the file.
   */
  readIntoFile?(fd: number, position: number, most: number): Promise<number>;
  /**
   * Bytes that a peer `read` has got, where it waits for all that is `wanted`; 0 otherwise. A stream that resolves with
   * whatever has come does without it. So a peer that sends a byte at a time is known to be alive.
   */
  readonly pendingBytes?: number;
  /** Ends our direction after everything written; resolves when the carrier has taken it all. Never rejects. */
  close(): Promise<void>;
  /**
   * Drops both directions at once: what the carrier still holds may be lost. The peer's calls fail with
   * `GODWIT_LINK_LOST`; where the carrier has no way to say so (a UNIX socket, a pipe) its stream just ends.
   */
  abort(reason: GodwitError): void;
  /**
   * Gives the connection away, for a thread that reads and writes its descriptor by itself. `duplicate` makes a second
   * descriptor (dup(2)): Node closes its own. Afterwards this object is dead; a peer `read` never settles. No write
   * may be pending, and nothing may have been closed.
   *
   * Missing, or `undefined` as the answer, where a stream cannot live anywhere but here: it is encrypted or framed in this
   * thread, is no socket, or this version of Node does not tell its descriptor.
   */
  detach?(duplicate: (fd: number) => number): DetachedDescriptor | undefined;
}

/** Takes byte streams from peers that connect. */
export interface Listener {
  /** Where to connect: `tcp://127.0.0.1:4444`. */
  readonly address: string;
  /**
   * The next stream. Fails with `GODWIT_CANCELLED` when `signal` aborts and with `GODWIT_INVALID_STATE` once the
   * listener is closed. Aborting one call loses no stream.
   */
  accept(signal?: AbortSignal): Promise<ByteStream>;
  /** Stops listening and drops streams that nobody has accepted. Accepted streams live on. */
  close(): Promise<void>;
}

/**
 * A carrier of byte streams, and nothing else: framing, negotiation and integrity live above it. `connect` fails with
 * `GODWIT_CONNECT_FAILED` (and the carrier's error as `cause`), or with `GODWIT_CANCELLED` when `signal` aborts.
 */
export interface Transport<L extends Listener = Listener> {
  /** Its streams are plain sockets, which have `detach`. Default false. */
  readonly plainSockets?: boolean;
  /**
   * Makes a stream. Rejects with `GODWIT_CONNECT_FAILED`, the carrier's own error as its `cause`, or `GODWIT_CANCELLED` when `signal`
   * aborts.
   */
  connect(signal?: AbortSignal): Promise<ByteStream>;
  /** Begins to listen. Rejects with `GODWIT_CONNECT_FAILED` where that cannot be had. */
  listen(signal?: AbortSignal): Promise<L>;
}
