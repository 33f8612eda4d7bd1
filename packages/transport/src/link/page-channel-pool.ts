import { type AttachFrame, type FrameStream, GodwitError } from '@godwit/core';
import { cancelled, throwIfCancelled } from '../stream/cancellation.js';
import { PeekedFrameStream } from './peeked-frame-stream.js';

/** One connection of a migration: channels of an older one never join a newer one. */
export interface ConnectionName {
  readonly migrationId: string;
  readonly connection: number;
}

/** A stream of somebody who has not been let in. */
export interface PendingStream {
  readonly stream: FrameStream;
  /** For messages: `tcp://192.0.2.1:50312`. */
  readonly peer: string;
}

/** A page channel that has named its migration and waits to be claimed by it. */
interface WaitingChannel extends PendingStream {
  readonly timer: NodeJS.Timeout;
}

/** Hellos that are remembered; pending connections can send as many as they like. */
const MOST_ANNOUNCED = 64;

interface Claim {
  readonly count: number;
  check(): void;
  fail(error: GodwitError): void;
}

/**
 * Brings page channels and the connections they name together. Either may come first: the source attaches its channels
 * before its hello has been read.
 */
export class PageChannelPool {
  readonly #timeoutMs: number;
  readonly #refuse: (pending: PendingStream, error: GodwitError) => void;
  readonly #waiting = new Map<string, Map<number, WaitingChannel>>();
  readonly #claims = new Map<string, Claim>();
  /** Page channels that a hello has announced for a migration. */
  readonly #announced = new Map<string, number>();
  #size = 0;

  /** Channels that nobody claims within `timeoutMs` are pending connections. `refuse` drops one. */
  constructor(timeoutMs: number, refuse: (pending: PendingStream, error: GodwitError) => void) {
    this.#timeoutMs = timeoutMs;
    this.#refuse = refuse;
  }

  /** Channels that wait now. */
  get size(): number {
    return this.#size;
  }

  /** A hello of this connection has come, with `count` page channels. */
  announce(name: ConnectionName, count: number): void {
    const key = keyOf(name);
    this.#announced.delete(key);
    this.#announced.set(key, count);
    if (this.#announced.size > MOST_ANNOUNCED) this.#announced.delete(this.#announced.keys().next().value as string);
    for (const [index, channel] of this.#waiting.get(key) ?? []) {
      if (index >= count) this.#drop(key, index, channel, outOfRange(index, count));
    }
  }

  add(attach: AttachFrame, pending: PendingStream): void {
    const { migrationId, index, connection } = attach;
    const key = keyOf(attach);
    const count = this.#announced.get(key);
    if (count !== undefined && index >= count) {
      this.#refuse(pending, outOfRange(index, count));
      return;
    }
    let channels = this.#waiting.get(key);
    if (channels === undefined) {
      channels = new Map();
      this.#waiting.set(key, channels);
    }
    if (channels.has(index)) {
      this.#refuse(
        pending,
        new GodwitError(
          'GODWIT_PROTOCOL',
          `page channel ${index} of connection ${connection} of migration ${migrationId} is attached already`,
        ),
      );
      return;
    }
    // Reading ahead one frame is how a peer that goes away while it waits is noticed: a reconnection may then take
    // its place.
    const { stream, peer } = pending;
    const next = stream.read();
    const message = `no migration ${migrationId} claimed page channel ${index} within ${this.#timeoutMs} ms`;
    const late = (): void => this.#drop(key, index, channel, new GodwitError('GODWIT_TIMEOUT', message));
    const timer = setTimeout(() => setImmediate(late), this.#timeoutMs);
    const channel: WaitingChannel = { stream: new PeekedFrameStream(stream, next), peer, timer };
    next.then(
      (received) => {
        if (received === null) this.#drop(key, index, channel, endedEarly());
      },
      (error: unknown) => this.#drop(key, index, channel, GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'reading')),
    );
    channels.set(index, channel);
    this.#size++;
    this.#claims.get(key)?.check();
  }

  /** Resolves with channels 0 to `count` - 1 of this connection, once all have come. */
  async claim(name: ConnectionName, count: number, signal: AbortSignal): Promise<readonly FrameStream[]> {
    const { migrationId, connection } = name;
    const key = keyOf(name);
    const what = `waiting for ${count} page channels`;
    throwIfCancelled(signal, what);
    if (this.#claims.has(key)) {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        `the page channels of connection ${connection} of migration ${migrationId} are waited for already`,
      );
    }
    this.announce(name, count);
    try {
      await new Promise<void>((resolve, reject) => {
        const onAbort = (): void => reject(cancelled(signal, what));
        const claim: Claim = {
          count,
          check: () => {
            if ((this.#waiting.get(key)?.size ?? 0) < count) return;
            signal.removeEventListener('abort', onAbort);
            resolve();
          },
          fail: reject,
        };
        this.#claims.set(key, claim);
        signal.addEventListener('abort', onAbort, { once: true });
        claim.check();
      });
    } finally {
      this.#claims.delete(key);
    }
    const channels = this.#waiting.get(key) ?? new Map<number, WaitingChannel>();
    this.#waiting.delete(key);
    this.#size -= channels.size;
    for (const channel of channels.values()) clearTimeout(channel.timer);
    return Array.from({ length: count }, (_, index) => (channels.get(index) as WaitingChannel).stream);
  }

  close(error: GodwitError): void {
    for (const claim of this.#claims.values()) claim.fail(error);
    for (const [key, channels] of this.#waiting) {
      for (const [index, channel] of channels) this.#drop(key, index, channel, error);
    }
  }

  #drop(key: string, index: number, channel: WaitingChannel, error: GodwitError): void {
    const channels = this.#waiting.get(key);
    if (channels?.get(index) !== channel) return;
    channels.delete(index);
    if (channels.size === 0) this.#waiting.delete(key);
    this.#size--;
    clearTimeout(channel.timer);
    this.#refuse(channel, error);
  }
}

function keyOf({ migrationId, connection }: ConnectionName): string {
  return `${migrationId} ${connection}`;
}

function outOfRange(index: number, count: number): GodwitError {
  return new GodwitError('GODWIT_PROTOCOL', `page channel ${index} of a migration whose hello announced ${count}`);
}

function endedEarly(): GodwitError {
  return new GodwitError('GODWIT_LINK_LOST', 'the page channel ended before its migration started');
}
