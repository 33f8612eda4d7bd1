import { type AttachFrame, GodwitError, type HelloFrame, MAXIMUM_PAGE_CHANNELS } from '@godwit/core';
import { Announcement, attachedAlready } from './announcement.js';
import { type ConnectionName, keyOf, nameOf, type PendingStream, type WaitingChannel } from './pending-stream.js';

/**
 * The most hellos that are remembered: those whose page channels were not taken, and those that were refused or given up. Peers can
 * send any number of them.
 */
const MOST_ANNOUNCED = 64;

/** The most page channels, of all migrations, that have come before their hello or were announced by hellos: sixteen times 64. */
const MOST_CHANNELS = 1024;

interface EarlyChannel extends WaitingChannel {
  readonly timer: NodeJS.Timeout;
}

/**
 * Brings page channels and the hellos that announce them together, whichever comes first. A source attaches its channels before it
 * says hello; until the hello comes they are pending connections, limited by `timeoutMs` and in number.
 */
export class PageChannelPool {
  readonly #timeoutMs: number;
  readonly #refuse: (pending: PendingStream, error: GodwitError) => void;
  readonly #early = new Map<string, Map<number, EarlyChannel>>();
  readonly #announced = new Map<string, Announcement>();
  /** Connections that ended before their channels were taken: some of their channels may still come. */
  readonly #ended = new Map<string, GodwitError>();
  #earlyCount = 0;
  /** The number of page channels of all announcements, whether or not they have come. */
  #announcedCount = 0;

  constructor(timeoutMs: number, refuse: (pending: PendingStream, error: GodwitError) => void) {
    this.#timeoutMs = timeoutMs;
    this.#refuse = refuse;
  }

  /**
   * Takes a hello, after which its page channels do not count as pending connections. When the hello is refused, throws the error
   * and drops the channels that came before it.
   */
  announce(hello: HelloFrame): Announcement {
    const { migrationId, connection, pageChannels } = hello;
    const key = keyOf(hello);
    let refusal = this.#contradiction(hello);
    if (refusal === undefined) {
      this.#supersede(hello);
      refusal = this.#lackOfRoom(pageChannels);
    }
    if (refusal !== undefined) {
      for (const [index, { stream }] of this.#early.get(key) ?? []) {
        this.#takeEarly(key, index);
        stream.abort(refusal);
      }
      if (!this.#announced.has(key)) this.#remember(key, refusal);
      throw refusal;
    }
    this.#ended.delete(key);
    const announcement = new Announcement({ migrationId, connection }, pageChannels, (reason) => {
      if (this.#announced.get(key) !== announcement) return;
      this.#announced.delete(key);
      this.#announcedCount -= pageChannels;
      if (reason !== undefined) this.#remember(key, reason);
    });
    if (pageChannels > 0) {
      this.#announced.set(key, announcement);
      this.#announcedCount += pageChannels;
    }
    for (const [index, channel] of this.#early.get(key) ?? []) {
      this.#takeEarly(key, index);
      const error = announcement.add(index, channel);
      if (error !== undefined) this.#refuse(channel, error);
    }
    return announcement;
  }

  /** Takes a page channel that has named its connection. */
  add(attach: AttachFrame, channel: WaitingChannel): void {
    const key = keyOf(attach);
    const ended = this.#ended.get(key);
    if (ended !== undefined) {
      channel.stream.abort(ended);
      return;
    }
    const announcement = this.#announced.get(key);
    const error =
      announcement === undefined ? this.#addEarly(attach, channel) : announcement.add(attach.index, channel);
    if (error !== undefined) this.#refuse(channel, error);
  }

  /** Closes the pool: no further stream comes. Channels that are complete go on waiting for their migration. */
  close(error: GodwitError): void {
    for (const [key, channels] of this.#early) {
      for (const [index, channel] of channels) {
        this.#takeEarly(key, index);
        this.#refuse(channel, error);
      }
    }
    for (const announcement of this.#announced.values()) if (!announcement.isWhole) announcement.end(error);
  }

  #remember(key: string, reason: GodwitError): void {
    this.#ended.set(key, reason);
    if (this.#ended.size > MOST_ANNOUNCED) this.#ended.delete(this.#ended.keys().next().value as string);
  }

  #contradiction(hello: HelloFrame): GodwitError | undefined {
    const { pageChannels } = hello;
    if (pageChannels > MAXIMUM_PAGE_CHANNELS) {
      return new GodwitError(
        'GODWIT_LIMIT_EXCEEDED',
        `the source wants ${pageChannels} page channels; there may be from 0 to ${MAXIMUM_PAGE_CHANNELS}`,
      );
    }
    if (this.#announced.has(keyOf(hello))) {
      return new GodwitError('GODWIT_PROTOCOL', `${nameOf(hello)} has said hello already`);
    }
    return undefined;
  }

  #lackOfRoom(pageChannels: number): GodwitError | undefined {
    if (pageChannels === 0) return undefined;
    if (this.#announced.size < MOST_ANNOUNCED && this.#announcedCount + pageChannels <= MOST_CHANNELS) return undefined;
    const message = `${this.#announced.size} migrations with ${this.#announcedCount} page channels wait here already; try again later`;
    return new GodwitError('GODWIT_LIMIT_EXCEEDED', message, { retry: true });
  }

  /** Drops the channels of older connections of this migration. */
  #supersede({ migrationId, connection }: ConnectionName): void {
    for (const announcement of this.#announced.values()) {
      const { name } = announcement;
      if (name.migrationId !== migrationId || name.connection >= connection) continue;
      announcement.end(superseded(name, connection));
    }
  }

  #addEarly(attach: AttachFrame, channel: WaitingChannel): GodwitError | undefined {
    const { index } = attach;
    const key = keyOf(attach);
    if (index >= MAXIMUM_PAGE_CHANNELS) {
      return new GodwitError(
        'GODWIT_PROTOCOL',
        `page channel ${index}; a migration has at most ${MAXIMUM_PAGE_CHANNELS}, from 0 on`,
      );
    }
    const channels = this.#early.get(key) ?? new Map<number, EarlyChannel>();
    if (channels.has(index)) return attachedAlready(index, attach);
    if (this.#earlyCount >= MOST_CHANNELS) {
      const message = `${MOST_CHANNELS} page channels wait for their hello here already; try again later`;
      return new GodwitError('GODWIT_LIMIT_EXCEEDED', message, { retry: true });
    }
    const message = `no hello announced page channel ${index} of ${nameOf(attach)} within handshakeTimeoutMs = ${this.#timeoutMs}`;
    const late = (): void => {
      if (this.#takeEarly(key, index, early)) this.#refuse(channel, new GodwitError('GODWIT_TIMEOUT', message));
    };
    const timer = setTimeout(() => setImmediate(late), this.#timeoutMs);
    const early = { ...channel, timer };
    this.#early.set(key, channels.set(index, early));
    this.#earlyCount++;
    void channel.left.then(() => {
      if (this.#takeEarly(key, index, early)) void channel.stream.close();
    });
    return undefined;
  }

  /** Removes a channel (only `channel`, if it is given) from those without a hello; returns false when it is not there any more. */
  #takeEarly(key: string, index: number, channel?: EarlyChannel): boolean {
    const channels = this.#early.get(key);
    const found = channels?.get(index);
    if (channels === undefined || found === undefined || (channel ?? found) !== found) return false;
    clearTimeout(found.timer);
    channels.delete(index);
    if (channels.size === 0) this.#early.delete(key);
    this.#earlyCount--;
    return true;
  }
}

export function superseded(name: ConnectionName, by: number): GodwitError {
  return new GodwitError('GODWIT_LINK_LOST', `connection ${by} of the source takes the place of ${nameOf(name)}`);
}
