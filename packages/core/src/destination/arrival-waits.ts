import { GodwitError } from '../errors.js';
import type { IncomingDevice } from './incoming-device.js';

/** The largest number of waits at a time. A source of this engine makes one for each kind of piece, and one for `switchover`. */
const MOST_WAITS = 16;

interface Wait {
  readonly attempt: number;
  readonly isMet: (incoming: IncomingDevice, index: number) => boolean;
  /** Index of the first device for which `isMet` was false: a condition that is met stays met, until all waits are forgotten. */
  at: number;
  readonly met: () => void;
}

/** Waits for pieces of device state that are on their way on other streams. */
export class ArrivalWaits {
  readonly #devices: readonly IncomingDevice[];
  readonly #waits = new Set<Wait>();

  constructor(devices: readonly IncomingDevice[]) {
    this.#devices = devices;
  }

  /**
   * Resolves once `isMet` returns true for every device; never, if the wait is forgotten first. `attempt`: the stop-and-copy whose
   * pieces are waited for, 0 for pre-copy. Throws `GODWIT_LIMIT_EXCEEDED` for too many waits.
   */
  until(attempt: number, isMet: (incoming: IncomingDevice, index: number) => boolean): Promise<void> {
    if (this.#waits.size >= MOST_WAITS) {
      throw new GodwitError('GODWIT_LIMIT_EXCEEDED', `the source waits for pieces in ${MOST_WAITS + 1} ways at a time`);
    }
    return new Promise((resolve) => {
      this.#waits.add({ attempt, isMet, at: 0, met: resolve });
      this.check();
    });
  }

  /** Resolves the waits that are met, after a piece has come. */
  check(): void {
    for (const wait of this.#waits) {
      for (; wait.at < this.#devices.length; wait.at++) {
        if (!wait.isMet(this.#devices[wait.at] as IncomingDevice, wait.at)) break;
      }
      if (wait.at < this.#devices.length) continue;
      this.#waits.delete(wait);
      wait.met();
    }
  }

  /** Forgets the waits for pieces of a stop-and-copy that was given up. */
  forgetAttempt(): void {
    for (const wait of this.#waits) if (wait.attempt > 0) this.#waits.delete(wait);
  }

  /** Forgets every wait: its promise never settles. */
  forget(): void {
    this.#waits.clear();
  }
}
