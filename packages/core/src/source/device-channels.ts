import { abortable } from '../abortable.js';
import type { DeviceFrame } from '../protocol/frame.js';
import type { PageChannel } from './page-channel.js';

/**
 * The number of pieces that a channel holds at once: two, so that the next one is there while one is written. With many channels one
 * each is enough.
 */
const PIECES_PER_CHANNEL = { few: 2, many: 1 } as const;

/** From this number of channels on, each holds one piece. */
const MANY_CHANNELS = 16;

/** A page channel that takes pieces of device state. */
type DeviceChannel = PageChannel & Required<Pick<PageChannel, 'sendDevice'>>;

/** A place in a channel for one piece. A place must be used or given back. */
export interface FreePlace {
  /** Writes the piece; its bytes are borrowed until the promise settles. */
  send(frame: DeviceFrame, bytes: Uint8Array): Promise<void>;
  giveBack(): void;
}

/**
 * Spreads pieces of device state over the page channels of one connection: each piece goes to the channel that has the fewest, so
 * that one large device uses all of them.
 */
export class DeviceChannels {
  readonly #channels: readonly DeviceChannel[];
  /** Per channel: the pieces that it holds, and the places that are kept. */
  readonly #taken: number[];
  /** The channel that took the last piece. */
  #last = -1;
  readonly #most: number;
  readonly #signal: AbortSignal;
  readonly #waiting: (() => void)[] = [];
  /** Bytes of pieces that the channels have written, or are writing. */
  bytes = 0;

  /** `signal` aborts when the connection is over. */
  constructor(channels: readonly PageChannel[], signal: AbortSignal) {
    this.#channels = channels.filter((channel): channel is DeviceChannel => channel.sendDevice !== undefined);
    this.#taken = this.#channels.map(() => 0);
    this.#most = channels.length < MANY_CHANNELS ? PIECES_PER_CHANNEL.few : PIECES_PER_CHANNEL.many;
    this.#signal = signal;
  }

  /** Number of channels that take pieces; with none of them pieces go over the control stream. */
  get count(): number {
    return this.#channels.length;
  }

  /** Resolves with a place for a piece; rejects when `giveUp` aborts, or the connection is over. */
  async free(giveUp?: AbortSignal): Promise<FreePlace> {
    this.#signal.throwIfAborted();
    giveUp?.throwIfAborted();
    let index = this.#emptiest();
    while ((this.#taken[index] as number) >= this.#most) {
      await this.#change(giveUp);
      index = this.#emptiest();
    }
    this.#taken[index] = (this.#taken[index] as number) + 1;
    this.#last = index;
    const giveBack = () => {
      this.#taken[index] = (this.#taken[index] as number) - 1;
      this.#waiting.shift()?.();
    };
    return {
      giveBack,
      send: (frame, bytes) => {
        this.bytes += bytes.byteLength;
        const writing = (this.#channels[index] as DeviceChannel).sendDevice(frame, bytes);
        writing.then(giveBack, giveBack);
        return writing;
      },
    };
  }

  /** Resolves when a place was given back. */
  async #change(giveUp: AbortSignal | undefined): Promise<void> {
    let wake: () => void = () => {};
    const changed = new Promise<void>((resolve) => {
      wake = resolve;
      this.#waiting.push(wake);
    });
    try {
      await (giveUp === undefined ? abortable(changed, this.#signal) : abortable(changed, this.#signal, giveUp));
    } catch (error) {
      const at = this.#waiting.indexOf(wake);
      // A waiter that gave up in the tick in which it was woken leaves the place to the next one.
      if (at === -1) this.#waiting.shift()?.();
      else this.#waiting.splice(at, 1);
      throw error;
    }
  }

  /**
   * Of the channels that have the fewest pieces, the next one in turn: a channel that seems empty may have a piece in its socket's
   * buffer.
   */
  #emptiest(): number {
    const { length } = this.#taken;
    let least = (this.#last + 1) % length;
    for (let i = 2; i <= length; i++) {
      const index = (this.#last + i) % length;
      if ((this.#taken[index] as number) < (this.#taken[least] as number)) least = index;
    }
    return least;
  }
}
