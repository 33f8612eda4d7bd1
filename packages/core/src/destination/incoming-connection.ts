import { abortable } from '../abortable.js';
import type { Clock } from '../clock.js';
import { recipesOf } from '../encoding/page-encoding.js';
import { GodwitError } from '../errors.js';
import { inTime, settledWithin } from '../in-time.js';
import type { IncomingLink } from '../link/migration-link.js';
import type { PageStream } from '../link/page-stream.js';
import type { DeviceFrame, HelloFrame } from '../protocol/frame.js';
import { FEATURES } from '../protocol/negotiate.js';
import { CLOSING_MS } from '../session/closing-message.js';
import { Connection, isLost } from '../session/connection.js';
import type { ThreadRecipe } from '../thread-recipe.js';
import type { PageReceiver } from './page-receiver.js';
import { type ChannelDevice, readPageChannel } from './read-page-channel.js';

/** Called when a channel has ended a round. */
export type RoundEnded = (channel: number, round: number, pages: number) => Promise<void>;

/**
 * Takes the device state that comes on page channels: `read` reads it from a stream on this thread, `take` is given what another
 * thread has read.
 */
export interface ChannelDeviceState {
  readonly read: ChannelDevice;
  readonly take: (frame: DeviceFrame, bytes: Uint8Array) => void;
}

/**
 * One connection of a migration at its destination, from the first byte on: the hello, the page channels that it announces, and the
 * reading of their pages into guest memory.
 */
export class IncomingConnection extends Connection<'destination'> {
  readonly link: IncomingLink;
  readonly #clock: Clock;
  #greeted: (hello: HelloFrame) => void = () => {};
  readonly #greeting: Promise<HelloFrame>;
  #hello: HelloFrame | undefined;
  /** The error of a page channel that broke before the control stream had failed. */
  #channelLost: GodwitError | undefined;

  constructor(link: IncomingLink, clock: Clock) {
    super({
      role: 'destination',
      clock,
      control: link.control,
      peer: link.peer,
      phase: () => (this.#hello === undefined ? 'greeting' : 'preparing'),
      handle: ({ frame }) => {
        // The hello is set in the tick in which it was read: after it no frame is legal until the answer.
        this.#hello = frame as HelloFrame;
        this.#greeted(this.#hello);
      },
    });
    this.link = link;
    this.#clock = clock;
    this.#greeting = new Promise((resolve) => {
      this.#greeted = resolve;
    });
  }

  /** The source's hello; throws before the hello was read. */
  get hello(): HelloFrame {
    if (this.#hello === undefined) throw new GodwitError('GODWIT_INTERNAL', 'the source has not said hello');
    return this.#hello;
  }

  /** Resolves with the source's first frame; rejects with `GODWIT_TIMEOUT` after `handshakeTimeoutMs`. */
  async greeting(handshakeTimeoutMs: number): Promise<HelloFrame> {
    const late = () =>
      new GodwitError(
        'GODWIT_TIMEOUT',
        `no "hello" from the source within handshakeTimeoutMs (${handshakeTimeoutMs} ms)`,
      );
    return abortable(inTime(this.#greeting, this.#clock, handshakeTimeoutMs, late), this.signal);
  }

  /** Ends the connection. If the link was lost and a page channel broke first, the error of that channel is the cause. */
  override end(reason: GodwitError): void {
    super.end(isLost(reason) ? (this.#channelLost ?? reason) : reason);
  }

  /** Waits for the page channels that the hello announces, at most `handshakeTimeoutMs`. Channels that come later are closed. */
  async takeChannels(handshakeTimeoutMs: number): Promise<void> {
    const { migrationId, pageChannels, features } = this.hello;
    if (pageChannels === 0) return;
    const giveUp = new AbortController();
    const attaching = this.link.pageChannels(migrationId, pageChannels, giveUp.signal);
    const late = () =>
      new GodwitError(
        'GODWIT_TIMEOUT',
        `no ${pageChannels} page channels from the source within handshakeTimeoutMs (${handshakeTimeoutMs} ms)`,
      );
    try {
      const streams = await abortable(inTime(attaching, this.#clock, handshakeTimeoutMs, late), this.signal);
      this.attach(streams, features.includes(FEATURES.postcopy));
    } catch (error) {
      const reason = GodwitError.wrap(error, 'GODWIT_LINK_LOST', 'the page channels are not needed any more');
      giveUp.abort(reason);
      attaching.then(
        (channels) => {
          for (const stream of channels) stream.abort(reason);
        },
        () => {},
      );
      throw error;
    }
  }

  /** From now on page channels on other threads put pages as `sink` does, once `PageBoard.missing` is set. */
  putMissing(sink: ThreadRecipe): void {
    for (const channel of this.pageChannels) channel.putMissing?.(sink);
  }

  /** Begins to read the page channels' pages into guest memory, and their device state, if `devices` is given. */
  readPages(receiver: PageReceiver, onRoundEnd: RoundEnded, devices?: ChannelDeviceState): void {
    const { signal } = this;
    // The board stops in the tick in which the connection ends: nothing that is read later is written to guest memory.
    if (signal.aborted) receiver.board.stop();
    else signal.addEventListener('abort', () => receiver.board.stop(), { once: true });
    for (const [channel, stream] of this.pageChannels.entries()) {
      void this.borrow(this.#readChannel(stream, channel, receiver, onRoundEnd, devices));
    }
  }

  /** Reads a page channel to its end, on this thread or on the stream's own. */
  async #readChannel(
    stream: PageStream,
    channel: number,
    receiver: PageReceiver,
    onRoundEnd: RoundEnded,
    devices: ChannelDeviceState | undefined,
  ): Promise<void> {
    const ended = (round: number, pages: number) => onRoundEnd(channel, round, pages);
    const { board, windows } = receiver;
    try {
      if (stream.receivePages !== undefined && board.buffers !== undefined) {
        const encodings = recipesOf(receiver.encodings);
        const reading = { channel, memory: windows.memory, board: board.buffers, encodings, onRoundEnd: ended };
        await stream.receivePages(devices === undefined ? reading : { ...reading, onDevice: devices.take });
      } else {
        await readPageChannel(stream, receiver.writer(channel), ended, devices?.read);
      }
    } catch (error) {
      // The control stream brings the peer's reason, or breaks too: either is awaited, for at most `CLOSING_MS`.
      if (isLost(error)) {
        if (receiver.sealed) return;
        this.#channelLost ??= GodwitError.wrap(error, 'GODWIT_LINK_LOST', `page channel ${channel} failed`);
        await settledWithin(abortable(this.ended, this.signal), this.#clock, CLOSING_MS);
      }
      this.end(GodwitError.wrap(error, 'GODWIT_INTERNAL', `page channel ${channel} failed`));
    }
  }
}
