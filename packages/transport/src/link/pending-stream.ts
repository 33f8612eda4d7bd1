import type { FrameStream, GodwitError } from '@godwit/core';

/** One connection of a migration: channels of an older one never join a newer one. */
export interface ConnectionName {
  readonly migrationId: string;
  readonly connection: number;
}

/** A stream that was accepted and that no migration has taken yet. */
export interface PendingStream {
  readonly stream: FrameStream;
  /** The peer's name, for messages: `tcp://192.0.2.1:50312`. */
  readonly peer: string;
}

/** A page channel that has named its connection, and waits to be taken together with the others. */
export interface WaitingChannel extends PendingStream {
  /** Resolves with the reason when the peer has left; pending as long as the channel works. */
  readonly left: Promise<GodwitError>;
}

export function keyOf({ migrationId, connection }: ConnectionName): string {
  return `${migrationId} ${connection}`;
}

export function nameOf({ migrationId, connection }: ConnectionName): string {
  return `connection ${connection} of migration ${migrationId}`;
}
