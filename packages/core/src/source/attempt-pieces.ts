import { abortable } from '../abortable.js';
import type { MigratableDevice } from '../device/migratable-device.js';
import { GodwitError } from '../errors.js';
import type { DeviceFrame } from '../protocol/frame.js';
import { MOST_PIECES } from '../protocol/negotiate.js';
import { type DeviceLink, type DeviceOutbox, MOST_UNANSWERED, placeFor } from './device-outbox.js';

/**
 * The pieces of one stop-and-copy: numbered from 0 for each device, sent on the streams that the connection has, within what the
 * destination holds. The pieces are not kept after they are sent: an attempt that loses its link is given up.
 *
 * When the state is larger than the destination holds, the destination is told to load before `switchover` (`loadEarly`), and each
 * `loaded` makes room. The pages that saving has written so far are sent before that: a load may write the same pages, and its writes have
 * to be the later ones.
 */
export class AttemptPieces {
  readonly attempt: number;
  /** Per device: how many pieces were sent. */
  readonly counts: number[];
  /** Bytes of state that were sent. */
  sentBytes = 0;
  /** Called when a piece could not be written. */
  onFailure: (error: unknown) => void = () => {};
  readonly #writing = new Set<Promise<void>>();
  readonly #devices: readonly MigratableDevice[];
  readonly #outbox: DeviceOutbox;
  readonly #link: DeviceLink;
  /** Per device: bytes of each piece that the destination holds and has not loaded, by sequence. */
  readonly #held: readonly Map<number, number>[];
  readonly #beforeEarly: () => Promise<void>;
  #askedEarly = false;
  /** Pieces that were sent since the destination last said that all had arrived. */
  #unanswered = 0;
  #answering: Promise<void> | undefined;

  /** `beforeEarly`: sends the pages that saving has written so far; resolves when the destination has them. */
  constructor(
    attempt: number,
    devices: readonly MigratableDevice[],
    outbox: DeviceOutbox,
    beforeEarly: () => Promise<void>,
  ) {
    this.attempt = attempt;
    this.#beforeEarly = beforeEarly;
    this.#devices = devices;
    this.#outbox = outbox;
    this.#link = outbox.link;
    this.counts = devices.map(() => 0);
    this.#held = devices.map(() => new Map());
  }

  /**
   * Sends the next piece of a device. Resolves when its bytes are no longer borrowed; over a page channel a copy is written later
   * (`written`). `isFirst`: no device before this one has state left to send, so that this device may fill all the room.
   */
  async send(
    index: number,
    last: boolean,
    bytes: Uint8Array,
    isFirst: () => boolean,
    signal: AbortSignal,
  ): Promise<void> {
    const { byteLength } = bytes;
    const channels = this.#link.deviceChannels;
    if (byteLength > 0) await this.#room(index, byteLength, isFirst, signal);
    if (channels !== undefined) await this.#answered(signal);
    const place = await placeFor(this.#link, byteLength, signal);
    // A device that hung may yield after the attempt was given up: its piece must not be sent after `back`.
    if (signal.aborted) place?.giveBack();
    signal.throwIfAborted();
    const sequence = this.counts[index] as number;
    this.counts[index] = sequence + 1;
    this.sentBytes += byteLength;
    this.#unanswered++;
    if (byteLength > 0) this.#held[index]?.set(sequence, byteLength);
    const header: DeviceFrame = { type: 'device', device: index, sequence, last, attempt: this.attempt };
    const payload = last ? undefined : bytes;
    const written = this.#outbox.write(this.#link, header, payload, place);
    // Over a page channel a copy is written, so that the device can go on at once.
    if (place === undefined) await abortable(written, signal);
    else {
      this.#writing.add(written);
      written.then(
        () => this.#writing.delete(written),
        (error: unknown) => this.onFailure(error),
      );
    }
  }

  /** Resolves when all pieces that were sent so far are written. */
  async written(): Promise<void> {
    await Promise.all(this.#writing);
  }

  /** Handles `loaded` of this attempt. Throws `GODWIT_PROTOCOL` for a piece that was not sent. */
  loaded(device: number, sequence: number): void {
    const held = this.#held[device];
    if (held === undefined || sequence > (this.counts[device] as number)) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `"loaded" names piece ${sequence} of device ${device} in attempt ${this.attempt}, which was not sent`,
      );
    }
    for (const [piece, bytes] of held) {
      if (piece >= sequence) break;
      held.delete(piece);
      this.#outbox.attemptBytes -= bytes;
      this.#outbox.attemptPieces--;
    }
    // The device's pieces of pre-copy were loaded before those of the attempt.
    this.#outbox.loaded(device, this.#outbox.sequences[device] as number);
  }

  /** Resolves when all pieces that were sent so far have arrived. */
  async arrived(): Promise<void> {
    await this.#link.arrived?.(this.attempt, this.counts);
  }

  /** Waits while too many pieces are in flight, since the destination has to keep pieces that overtake others. */
  async #answered(signal: AbortSignal): Promise<void> {
    while (this.#unanswered >= MOST_UNANSWERED) {
      this.#answering ??= this.arrived().finally(() => {
        this.#unanswered = 0;
        this.#answering = undefined;
      });
      await abortable(this.#answering, signal);
    }
  }

  /**
   * Waits until the destination has room for `bytes` more bytes, and takes the room. The destination is told to load early if nothing else
   * will make room.
   */
  async #room(index: number, bytes: number, isFirst: () => boolean, signal: AbortSignal): Promise<void> {
    const outbox = this.#outbox;
    const early = this.#link.loadsEarly === true;
    for (;;) {
      // The room of one piece is left to a device before this one, which may be loaded first.
      if (outbox.hasRoom(bytes, early && !isFirst() ? 1 : 0)) {
        // The room is taken in the same tick, since devices that save at the same time ask for the same room.
        outbox.attemptBytes += bytes;
        outbox.attemptPieces++;
        return;
      }
      if (!early) throw tooLarge(this.#devices[index] as MigratableDevice, outbox.maximumBytes);
      if (isFirst() && !this.#askedEarly && outbox.isFull(bytes)) {
        this.#askedEarly = true;
        await abortable(this.#beforeEarly(), signal, this.#link.signal);
        const deviceSequences = [...this.#outbox.sequences];
        await abortable(
          this.#link.write({ type: 'loadEarly', attempt: this.attempt, device: index, deviceSequences }),
          signal,
        );
        continue;
      }
      await abortable(this.#outbox.change(), signal, this.#link.signal);
    }
  }
}

function tooLarge({ id }: MigratableDevice, maximumBytes: number): GodwitError {
  return new GodwitError(
    'GODWIT_LIMIT_EXCEEDED',
    `device "${id}" saves more than the destination holds before it is loaded (${maximumBytes} bytes in at most ${MOST_PIECES} pieces, of all devices together), and the ` +
      'destination cannot load it before the switchover; raise maximumDeviceState there, or use a newer destination',
  );
}
