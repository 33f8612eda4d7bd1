import { PORT_PACER } from '../guest/ports.js';
import type { PortDevice } from './port-device.js';

/** Longest sleep that the guest can ask for at once, so that a wild value does not stop a vCPU for an hour. */
const LONGEST_MICROSECONDS = 1_000_000;

/**
 * The pacer: a vCPU that writes n sleeps for n microseconds of the host's time, which it could do with HLT and a timer
 * if it took interrupts. A pause wakes it, and the rest of that sleep is forgotten: the guest looks at the clock.
 */
export class Pacer implements PortDevice {
  readonly firstPort = PORT_PACER;
  readonly portCount = 4;
  readonly #sleep: (milliseconds: number) => void;

  /** @param sleep returns early when the main thread wants something from this vCPU */
  constructor(sleep: (milliseconds: number) => void) {
    this.#sleep = sleep;
  }

  read(): number {
    return 0;
  }

  write(_port: number, _size: number, value: number): void {
    if (value > 0) this.#sleep(Math.min(value, LONGEST_MICROSECONDS) / 1000);
  }
}
