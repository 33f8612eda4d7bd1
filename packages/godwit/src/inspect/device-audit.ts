import type { DeviceFrame, HelloFrame } from '@godwit/core';

/** Pieces of one device that have passed a link: those of pre-copy, and those of the attempt that is under way. */
interface DeviceTally {
  /** The piece of pre-copy that comes next; `undefined` where the file does not tell. */
  next: number | undefined;
  precopyPieces: number;
  precopyBytes: number;
  attempt: number;
  pieces: number;
  bytes: number;
}

/** The sum of a device's pieces up to its last one. */
export interface DeviceTotal {
  readonly id: string;
  readonly attempt: number;
  readonly pieces: number;
  readonly bytes: number;
}

/** Adds up the pieces of device state on one link, and holds them to their order. */
export class DeviceAudit {
  readonly #devices: HelloFrame['devices'];
  readonly #tallies = new Map<number, DeviceTally>();
  #resets: readonly number[] | undefined;

  constructor({ devices }: HelloFrame) {
    this.#devices = devices;
  }

  /** A destination that knows nothing of the migration: every device begins with piece 0. */
  welcome(): void {
    this.#begin(this.#devices.map(() => 0));
    this.#resets = this.#devices.map(() => 0);
  }

  /** The pieces that the destination expects next, over a further connection. Returns what is wrong with the lists. */
  resumed(deviceSequences: readonly number[], deviceResets: readonly number[]): string | undefined {
    this.#begin(deviceSequences);
    this.#resets = deviceResets;
    return this.#fits('resumed', deviceSequences) ?? this.#fits('resumed', deviceResets);
  }

  /** Devices that were reset for going back begin anew. Returns what is wrong with the list. */
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

  /** Pieces that the destination has taken; it cannot take what has not come. */
  loaded(device: number, sequence: number): string | undefined {
    const id = this.#devices[device]?.id;
    if (id === undefined) return this.#unknown('"loaded"', device);
    const { next } = this.#tallies.get(device) ?? fresh(undefined);
    if (next === undefined || sequence <= next) return undefined;
    return `"loaded" says that device "${id}" has taken ${sequence} pieces; ${next} have come`;
  }

  /** Every list with a number for each device has as many as there are devices. */
  asked(type: 'prepare' | 'prepared', deviceSequences: readonly number[]): string | undefined {
    return this.#fits(type, deviceSequences);
  }

  /** Takes a piece of `bytes` bytes. Returns what is wrong with it, and with the last one the device's total. */
  piece(
    { device, sequence, last, attempt }: DeviceFrame,
    bytes: number,
  ): { readonly wrong?: string | undefined; readonly total?: DeviceTotal } {
    const id = this.#devices[device]?.id;
    if (id === undefined) return { wrong: this.#unknown('a piece', device) };
    const tally = this.#tallies.get(device) ?? fresh(undefined);
    this.#tallies.set(device, tally);
    if (attempt === 0) {
      const wrong = tally.next !== undefined && sequence !== tally.next;
      const message = `piece ${sequence} of device "${id}" follows ${tally.next} pieces`;
      tally.next = sequence + 1;
      tally.precopyPieces++;
      tally.precopyBytes += bytes;
      if (wrong) return { wrong: message };
      return last ? { wrong: `the last piece of device "${id}" belongs to no stop-and-copy` } : {};
    }
    if (tally.attempt !== attempt) Object.assign(tally, { attempt, pieces: 0, bytes: 0 });
    const wrong =
      sequence === tally.pieces
        ? undefined
        : `piece ${sequence} of device "${id}" follows ${tally.pieces} pieces of attempt ${attempt}`;
    tally.pieces = sequence + 1;
    tally.bytes += bytes;
    if (!last) return { wrong };
    const pieces = tally.precopyPieces + tally.pieces;
    return { wrong, total: { id, attempt, pieces, bytes: tally.precopyBytes + tally.bytes } };
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
  return { next, precopyPieces: 0, precopyBytes: 0, attempt: 0, pieces: 0, bytes: 0 };
}
