import { abortable } from '../abortable.js';
import type { DeviceFrame } from '../protocol/frame.js';
import type { PageChannel } from './page-channel.js';

/** Pieces that a channel holds at once: while one is written, the next one is there. With many channels one each is enough. */
const PIECES_PER_CHANNEL = { few: 2, many: 1 } as const;

/** From this number of channels on, each holds one piece. */
const MANY_CHANNELS = 16;

/** A page channel that takes pieces of device state. */
type DeviceChannel = PageChannel & Required<Pick<PageChannel, 'sendDevice'>>;

/** A place in a channel for one piece. It must be used or given back. */
export interface FreePlace {
  /** Writes the piece; its bytes are borrowed until the promise settles. */
  send(frame: DeviceFrame, bytes: Uint8Array): Promise<void>;
  giveBack(): void;
}

/**
 * Spreads pieces of device state over the page channels of one connection: each goes to the channel that has the fewest, so that one
 * large device uses all of them.
 */
export class DeviceChannels {
  readonly #channels: readonly DeviceChannel[];
  /** Per channel: pieces that it holds, or that a place is kept for. */
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

  /** Number of channels that take pieces; with 0 of them pieces go over the control stream. */
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
      // It was woken in the same tick: the place is the next one's.
      if (at === -1) this.#waiting.shift()?.();
      else this.#waiting.splice(at, 1);
      throw error;
    }
  }

  /** Of the channels that have the fewest pieces, the next one in turn: a socket's buffer may have taken a piece that is not sent. */
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
