import { type FrameStream, GodwitError } from '@godwit/core';
import { cancelled, throwIfCancelled } from '../stream/cancellation.js';
import { type ConnectionName, nameOf, type WaitingChannel } from './pending-stream.js';

interface Claim {
  resolve(channels: readonly FrameStream[]): void;
  reject(error: GodwitError): void;
}

/**
 * The page channels that one hello has announced, until the migration takes them. They last as long as the hello's control
 * stream: no timer ends them (building a VM may take minutes), and they are dropped when the control stream ends.
 */
export class Announcement {
  readonly name: ConnectionName;
  readonly count: number;
  readonly #onOver: (reason: GodwitError | undefined) => void;
  readonly #channels = new Map<number, WaitingChannel>();
  #claim: Claim | undefined;
  /** The reason why no channel can be added or claimed any more. */
  #over: GodwitError | undefined;

  /** `onOver` is called once: when the channels are taken, or with the reason at `end`. */
  constructor(name: ConnectionName, count: number, onOver: (reason: GodwitError | undefined) => void) {
    this.name = name;
    this.count = count;
    this.#onOver = onOver;
  }

  /** Whether every channel has come. */
  get isWhole(): boolean {
    return this.#channels.size === this.count;
  }

  /** Takes a channel, or returns the error with which it is refused. */
  add(index: number, channel: WaitingChannel): GodwitError | undefined {
    if (index >= this.count) {
      return new GodwitError(
        'GODWIT_PROTOCOL',
        `page channel ${index} of a migration whose hello announced ${this.count}`,
      );
    }
    if (this.#channels.has(index)) return attachedAlready(index, this.name);
    this.#channels.set(index, channel);
    void channel.left.then(() => {
      if (this.#channels.get(index) !== channel) return;
      this.#channels.delete(index);
      void channel.stream.close();
    });
    this.#check();
    return undefined;
  }

  /** Resolves with all channels in the order of their index, once they have come. */
  async claim(count: number, signal: AbortSignal): Promise<readonly FrameStream[]> {
    const what = `waiting for ${count} page channels of ${nameOf(this.name)}`;
    throwIfCancelled(signal, what);
    if (this.#over !== undefined) throw this.#over;
    if (count !== this.count) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `${nameOf(this.name)} has announced ${this.count} page channels, and ${count} are asked for`,
      );
    }
    if (this.#claim !== undefined) {
      throw new GodwitError('GODWIT_INVALID_STATE', `the page channels of ${nameOf(this.name)} are waited for already`);
    }
    return new Promise((resolve, reject) => {
      const settled = (): void => {
        this.#claim = undefined;
        signal.removeEventListener('abort', onAbort);
      };
      const onAbort = (): void => {
        settled();
        reject(cancelled(signal, what));
      };
      this.#claim = {
        resolve: (channels) => {
          settled();
          resolve(channels);
        },
        reject: (error) => {
          settled();
          reject(error);
        },
      };
      signal.addEventListener('abort', onAbort, { once: true });
      this.#check();
    });
  }

  /** Drops the channels that no migration has taken, without an `error` frame: the control stream has the reason. */
  end(reason: GodwitError): void {
    if (this.#over !== undefined) return;
    this.#over = reason;
    const channels = [...this.#channels.values()];
    this.#channels.clear();
    for (const { stream } of channels) stream.abort(reason);
    this.#claim?.reject(reason);
    this.#onOver(reason);
  }

  #check(): void {
    if (this.#claim === undefined || !this.isWhole) return;
    this.#over = new GodwitError(
      'GODWIT_INVALID_STATE',
      `the page channels of ${nameOf(this.name)} were taken already`,
    );
    const streams = Array.from({ length: this.count }, (_, i) => (this.#channels.get(i) as WaitingChannel).stream);
    this.#channels.clear();
    this.#claim.resolve(streams);
    this.#onOver(undefined);
  }
}

export function attachedAlready(index: number, name: ConnectionName): GodwitError {
  return new GodwitError('GODWIT_PROTOCOL', `page channel ${index} of ${nameOf(name)} is attached already`);
}
