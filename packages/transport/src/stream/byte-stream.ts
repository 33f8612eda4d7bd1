import type { GodwitError } from '@godwit/core';

/** A connected stream socket that Node does not manage any more. Its owner closes it. */
export interface DetachedDescriptor {
  readonly fd: number;
  /** Bytes that were already read and not handed out. They come before those of `fd`. */
  readonly unread: Uint8Array;
}

/** The calls of a stream that block their thread, without promises. */
export interface BlockingCalls {
  /** Waits for bytes, and works as `ByteStream.read`. */
  read(into: Uint8Array, wanted: number): number;
  /** Returns when the carrier has taken all bytes of all chunks. */
  write(chunks: readonly Uint8Array[]): void;
}

/**
 * An ordered, reliable stream of bytes in each direction: all that a migration requires of a carrier.
 *
 * Guarantees, for every implementation:
 *
 * - **Order.** Bytes arrive exactly once and in the order of the `write` calls; chunks of overlapping calls never mix.
 * - **Back-pressure.** `write` resolves when the carrier has taken the bytes; a slow reader makes it resolve late. What
 *   the carrier holds on its own is bounded by its buffers, not by what was written.
 * - **Borrowing.** Chunks are read in place until the promise settles, and may be guest memory that changes meanwhile:
 *   each byte is taken at some moment between the call and the end of the promise. After it settled (for whatever
 *   reason), they are never touched again. The same holds for `read` and `into`.
 * - **Half-close.** `close` ends this side's direction only. Reading goes on until the peer ends its own.
 * - **Abort.** Every pending call settles at once, and nothing borrowed is touched from then on.
 * - **No handle left.** Once both directions have ended, or after `abort`, nothing keeps the process alive.
 *
 * Calls fail with a `GodwitError`: `GODWIT_LINK_LOST` when the carrier broke, the reason given to `abort` after that,
 * `GODWIT_INVALID_STATE` for a `write` after `close` or a second `read` at the same time.
 */
export interface ByteStream {
  /** The peer's name, for messages: `tcp://192.0.2.1:4444`. */
  readonly peer: string;
  /** Writes all bytes of all chunks. See back-pressure and borrowing above. */
  write(chunks: readonly Uint8Array[]): Promise<void>;
  /**
   * Reads into `into` and resolves with the number of bytes: from 1 to `into.length`, or 0 when the peer has ended its direction (in
   * every later call too). Only one call at a time; `into` must not be empty.
   *
   * `wanted` is a hint: the caller will read on until it has that many bytes. A stream may wait for that many and fill `into` with
   * fewer wake-ups; resolving with fewer bytes is always allowed.
   */
  read(into: Uint8Array, wanted?: number): Promise<number>;
  /**
   * Puts bytes of the stream into a file without passing them through this process's memory: from 1 to `most`, at `position`; resolves
   * with their number, or 0 when the peer has ended its direction. It otherwise works as `read`. From a stream without this method
   * bytes are read and then written to the file.
   */
  readIntoFile?(fd: number, position: number, most: number): Promise<number>;
  /**
   * Bytes that a pending `read` has received, where it waits for all that is `wanted`; 0 otherwise. With this number a peer that sends
   * a byte at a time is known to be alive. A stream that resolves with whatever has come does not need the property.
   */
  readonly pendingBytes?: number;
  /**
   * Only where `read` and `write` block the thread until they are done: the same calls without promises. A thread that has no other work
   * then makes no garbage for promises, whose collection would stop it.
   */
  readonly blocking?: BlockingCalls;
  /** Ends this side's direction after everything that was written; resolves when the carrier has taken it all. Never rejects. */
  close(): Promise<void>;
  /**
   * Drops both directions at once: what the carrier still holds may be lost. The peer's calls fail with `GODWIT_LINK_LOST`; where the
   * carrier cannot show this (a UNIX socket, a pipe) the peer's stream just ends.
   */
  abort(reason: GodwitError): void;
  /**
   * Gives the connection away, for a thread that reads and writes its descriptor by itself. `duplicate` makes a second descriptor
   * (dup(2)), since Node closes its own. Afterwards this object cannot be used, and a pending `read` never settles. No write may be
   * pending, and nothing may have been closed.
   *
   * The method is missing, or returns `undefined`, where the stream cannot leave this thread: it is encrypted or framed here, is no
   * socket, or this version of Node does not show its descriptor.
   */
  detach?(duplicate: (fd: number) => number): DetachedDescriptor | undefined;
}

/** Takes byte streams from peers that connect. */
export interface Listener {
  /** The address to connect to: `tcp://127.0.0.1:4444`. */
  readonly address: string;
  /**
   * Resolves with the next stream. Fails with `GODWIT_CANCELLED` when `signal` aborts and with `GODWIT_INVALID_STATE` once the listener
   * is closed. Aborting one call loses no stream.
   */
  accept(signal?: AbortSignal): Promise<ByteStream>;
  /** Stops listening and drops streams that were not accepted. Accepted streams stay open. */
  close(): Promise<void>;
}

/**
 * A carrier of byte streams only: framing, negotiation and integrity are the work of the layers above it. `connect` fails with
 * `GODWIT_CONNECT_FAILED` (and the carrier's error as `cause`), or with `GODWIT_CANCELLED` when `signal` aborts.
 */
export interface Transport<L extends Listener = Listener> {
  /** Whether its streams are plain sockets, which have `detach`. Default false. */
  readonly plainSockets?: boolean;
  /**
   * Makes a stream. Rejects with `GODWIT_CONNECT_FAILED`, the carrier's own error as its `cause`, or `GODWIT_CANCELLED` when `signal`
   * aborts.
   */
  connect(signal?: AbortSignal): Promise<ByteStream>;
  /** Begins to listen. Rejects with `GODWIT_CONNECT_FAILED` where listening is impossible. */
  listen(signal?: AbortSignal): Promise<L>;
}
