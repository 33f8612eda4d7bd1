import { type Channel, channel } from 'node:diagnostics_channel';

/** The side of a migration that an event is of. */
export type TappedRole = 'source' | 'destination';

/** The message on a channel. */
export interface TappedEvent<E = unknown> {
  readonly role: TappedRole;
  /** The migration's id, where the role knows it. */
  readonly migrationId: string | undefined;
  /** The event as subscribers of the role get it: not copied, and not to be changed. */
  readonly event: E;
}

/**
 * Publishes each event of a role on `node:diagnostics_channel`, on the channel `godwit:source:TYPE` or `godwit:destination:TYPE`, so
 * that a program can be tapped whose code cannot be changed. `observe` publishes the events too. For an event without a subscriber, only
 * the channel's list of subscribers is read.
 *
 * @example
 * import { subscribe } from 'node:diagnostics_channel';
 * subscribe('godwit:source:round', ({ event }) => console.log(event.round.dirtyPages));
 */
export function publishEvents<E extends { readonly type: string }>(
  role: TappedRole,
  events: { readonly id?: string; subscribe(next: (event: E) => void): { unsubscribe(): void }; status?(): unknown },
): {
  /** Ends the publishing. */
  unsubscribe(): void;
} {
  return events.subscribe((event) => {
    const tapped = keptChannel(`godwit:${role}:${event.type}`);
    if (!tapped.hasSubscribers) return;
    const message: TappedEvent<E> = { role, migrationId: events.id ?? idOf(events.status?.()), event };
    tapped.publish(message);
  });
}

/**
 * Node 20 holds a channel by a weak reference. When a channel was collected, Node may forget the next channel of that name and its
 * subscribers. So the channels that events were published on are kept here.
 */
const kept = new Map<string, Channel>();

function keptChannel(name: string): Channel {
  const known = kept.get(name) ?? channel(name);
  kept.set(name, known);
  return known;
}

/** A destination learns the migration's id from the source's hello. */
function idOf(status: unknown): string | undefined {
  return (status as { readonly migrationId?: string } | undefined)?.migrationId;
}
