import { type DeviceFrame, FEATURES, type HelloFrame } from '@godwit/core';

/** The pieces of one device that have crossed a link: those of pre-copy, and those of the current attempt. */
interface DeviceTally {
  /** The sequence of the next piece of pre-copy; `undefined` if the file does not tell. */
  next: number | undefined;
  precopyPieces: number;
  precopyBytes: number;
  attempt: number;
  pieces: number;
  bytes: number;
  /** The pieces that came, on another stream, before an earlier piece: those of pre-copy, and those of the attempt. */
  readonly ahead: Set<number>;
  readonly attemptAhead: Set<number>;
  /** The sequence after that of the attempt's last piece, once that piece has passed. */
  end: number | undefined;
}

/** The sum of a device's pieces up to its last one. */
export interface DeviceTotal {
  readonly id: string;
  readonly attempt: number;
  readonly pieces: number;
  readonly bytes: number;
}

/** Adds up the pieces of device state on one link, and checks their order. */
export class DeviceAudit {
  readonly #devices: HelloFrame['devices'];
  readonly #tallies = new Map<number, DeviceTally>();
  #resets: readonly number[] | undefined;
  /** Whether pieces may come on several streams, and so in any order. */
  readonly #anyOrder: boolean;
  #givenUp = 0;

  constructor({ devices, features, pageChannels }: HelloFrame) {
    this.#devices = devices;
    this.#anyOrder = pageChannels > 0 && features.includes(FEATURES.deviceChannels);
  }

  /** Notes that a stop-and-copy was given up: pieces of it that still come are void. */
  back(attempt: number): void {
    this.#givenUp = Math.max(this.#givenUp, attempt);
  }

  /** Notes that the destination has no state of the migration yet: every device begins with piece 0. */
  welcome(): void {
    this.#begin(this.#devices.map(() => 0));
    this.#resets = this.#devices.map(() => 0);
  }

  /**
   * Takes the pieces that the destination expects next on a further connection. Returns what is wrong with the lists.
   */
  resumed(deviceSequences: readonly number[], deviceResets: readonly number[]): string | undefined {
    this.#begin(deviceSequences);
    this.#resets = deviceResets;
    return this.#fits('resumed', deviceSequences) ?? this.#fits('resumed', deviceResets);
  }

  /** Notes that the devices that were reset for going back begin again. Returns what is wrong with the list. */
  backAck(deviceResets: readonly number[]): string | undefined {
    const before = this.#resets;
    this.#resets = deviceResets;
    const wrong = this.#fits('backAck', deviceResets);
    if (wrong !== undefined || before === undefined) return wrong;
    for (const [index, { id }] of this.#devices.entries()) {
      const [now, then] = [deviceResets[index] as number, before[index] as number];
      if (now < then) return `"backAck" says that device "${id}" was reset ${now} times, where it had been ${then}`;
      if (now > then) this.#tallies.set(index, fresh(0));
    }
    return undefined;
  }

  /** Checks the number of pieces that the destination says it has loaded against those that have come. */
  loaded(device: number, sequence: number, attempt = 0): string | undefined {
    const id = this.#devices[device]?.id;
    if (id === undefined) return this.#unknown('"loaded"', device);
    const tally = this.#tallies.get(device) ?? fresh(undefined);
    if (attempt > 0 && attempt !== tally.attempt) return undefined;
    const next = attempt > 0 ? tally.pieces : tally.next;
    if (next === undefined || sequence <= next) return undefined;
    return `"loaded" says that device "${id}" has taken ${sequence} pieces; ${next} have come`;
  }

  /** Checks that a list with a number for each device is as long as the list of devices. */
  asked(
    type: 'prepare' | 'prepared' | 'awaitPieces' | 'loadEarly',
    deviceSequences: readonly number[],
  ): string | undefined {
    return this.#fits(type, deviceSequences);
  }

  /**
   * Takes a piece of `bytes` bytes. Returns what is wrong with the piece, and, for the last piece, the device's total.
   */
  piece(
    { device, sequence, last, attempt, resets }: DeviceFrame,
    bytes: number,
  ): { readonly wrong?: string | undefined; readonly total?: DeviceTotal } {
    const id = this.#devices[device]?.id;
    if (id === undefined) return { wrong: this.#unknown('a piece', device) };
    const tally = this.#tallies.get(device) ?? fresh(undefined);
    this.#tallies.set(device, tally);
    if (attempt === 0) {
      // The source sent this piece before it knew of a reset, which makes the piece void.
      if (this.#anyOrder && resets !== undefined && resets < (this.#resets?.[device] ?? 0)) return {};
      const before = tally.next;
      const inOrder = this.#passes(tally.ahead, tally.next, sequence);
      tally.next = inOrder ?? sequence + 1;
      tally.precopyPieces++;
      tally.precopyBytes += bytes;
      if (inOrder === undefined) return { wrong: `piece ${sequence} of device "${id}" follows ${before} pieces` };
      return last ? { wrong: `the last piece of device "${id}" belongs to no stop-and-copy` } : {};
    }
    if (this.#anyOrder && attempt <= this.#givenUp) return {};
    if (tally.attempt !== attempt) {
      tally.attemptAhead.clear();
      Object.assign(tally, { attempt, pieces: 0, bytes: 0, end: undefined });
    }
    const before = tally.pieces;
    const inOrder = this.#passes(tally.attemptAhead, tally.pieces, sequence);
    tally.pieces = inOrder ?? sequence + 1;
    tally.bytes += bytes;
    if (last) tally.end = sequence + 1;
    const wrong =
      inOrder === undefined
        ? `piece ${sequence} of device "${id}" follows ${before} pieces of attempt ${attempt}`
        : undefined;
    if (tally.end !== tally.pieces) return { wrong };
    tally.end = undefined;
    const pieces = tally.precopyPieces + tally.pieces;
    return { wrong, total: { id, attempt, pieces, bytes: tally.precopyBytes + tally.bytes } };
  }

  /**
   * The sequence that is expected after this piece; `undefined` if the piece is out of order where order is required.
   */
  #passes(ahead: Set<number>, next: number | undefined, sequence: number): number | undefined {
    if (next === undefined || sequence === next) {
      let following = sequence + 1;
      while (ahead.delete(following)) following++;
      return following;
    }
    if (!this.#anyOrder || sequence < next || ahead.has(sequence)) return undefined;
    ahead.add(sequence);
    return next;
  }

  #begin(sequences: readonly number[]): void {
    for (const index of this.#devices.keys()) this.#tallies.set(index, fresh(sequences[index]));
  }

  #fits(type: string, list: readonly number[]): string | undefined {
    if (list.length === this.#devices.length) return undefined;
    return `"${type}" has numbers for ${list.length} devices; the hello lists ${this.#devices.length}`;
  }

  #unknown(what: string, device: number): string {
    return `${what} of device ${device}; the hello lists ${this.#devices.length} devices`;
  }
}

function fresh(next: number | undefined): DeviceTally {
  return {
    ...{ next, precopyPieces: 0, precopyBytes: 0, attempt: 0, pieces: 0, bytes: 0 },
    ...{ ahead: new Set<number>(), attemptAhead: new Set<number>(), end: undefined },
  };
}
