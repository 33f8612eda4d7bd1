import { type DeviceFrame, GodwitError, type HelloFrame, type PrepareFrame } from '@godwit/core';
import { MOST_DEVICE_STATE } from './snapshot-writer.js';

/** Pieces of one device: those of pre-copy, and those of the stop-and-copy. Each kind is counted from 0. */
interface PieceCounts {
  precopy: number;
  stopped: number;
  ended: boolean;
}

/**
 * Checks the order of the pieces of device state that come to a file: a snapshot that lacks a piece, or has one of a
 * stop-and-copy that was given up, would load a state that the devices have not saved.
 */
export class SavedDevices {
  readonly #devices: HelloFrame['devices'];
  readonly #counts: readonly PieceCounts[];
  #attempt: number | undefined;
  #bytes = 0;

  constructor({ devices }: HelloFrame) {
    this.#devices = devices;
    this.#counts = devices.map(() => ({ precopy: 0, stopped: 0, ended: false }));
  }

  /**
   * Counts a piece, or throws `GODWIT_PROTOCOL` for a piece that is not the next one, and `GODWIT_LIMIT_EXCEEDED` for too
   * many pieces.
   */
  admit({ device, sequence, last, attempt }: DeviceFrame, bytes: number): void {
    const counts = this.#counts[device];
    if (counts === undefined) {
      throw wrong(`a piece of device ${device} came; the hello lists ${this.#devices.length} devices`);
    }
    const { id } = this.#devices[device] as { readonly id: string };
    if (counts.ended) throw wrong(`a piece of device "${id}" came after its last one`);
    if (attempt > 0) this.admitAttempt(attempt);
    else if (this.#attempt !== undefined) {
      throw wrong(`a piece of device "${id}" of pre-copy came in stop-and-copy ${this.#attempt}`);
    }
    const kind = attempt > 0 ? 'stopped' : 'precopy';
    if (sequence !== counts[kind]) {
      throw wrong(`piece ${sequence} of device "${id}" came, where piece ${counts[kind]} is next`);
    }
    this.#bytes += bytes;
    if (this.#bytes > MOST_DEVICE_STATE) {
      throw new GodwitError(
        'GODWIT_LIMIT_EXCEEDED',
        `the devices gave more than ${MOST_DEVICE_STATE} bytes of state, which is what a snapshot holds`,
      );
    }
    counts[kind]++;
    counts.ended = last;
  }

  /** Checks the attempt: a file takes one stop-and-copy, whatever its number, since nothing of it could be taken back. */
  admitAttempt(attempt: number): void {
    this.#attempt ??= attempt;
    if (attempt > 0 && attempt === this.#attempt) return;
    throw wrong(`a frame of stop-and-copy ${attempt} came, where that of ${this.#attempt} is under way`);
  }

  /** Checks that `prepare` names no piece that has not come. */
  admitPrepare({ deviceSequences }: PrepareFrame): void {
    const known = deviceSequences.length === this.#counts.length;
    if (known && deviceSequences.every((next, i) => next <= (this.#counts[i] as PieceCounts).precopy)) return;
    const came = this.#counts.map(({ precopy }) => precopy).join(', ');
    throw wrong(
      `"prepare" names the pieces ${deviceSequences.join(', ') || 'of no device'}, but ${came || 'none'} came`,
    );
  }

  /** Checks that every device has sent its last piece. */
  mustBeWhole(): void {
    const open = this.#counts.findIndex(({ ended }) => !ended);
    if (open === -1) return;
    throw wrong(`"switchover" came before the end of the state of device "${this.#devices[open]?.id}"`);
  }
}

function wrong(message: string): GodwitError {
  return new GodwitError('GODWIT_PROTOCOL', message);
}
