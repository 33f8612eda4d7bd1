import { PORT_PACER } from '../guest/ports.js';
import type { PortDevice } from './port-device.js';

/** Longest sleep that the guest can ask for at once, so that a wrong value does not stop a vCPU for an hour. */
const LONGEST_MICROSECONDS = 1_000_000;

/**
 * The pacer: a vCPU that writes n sleeps for n microseconds of the host's time. It replaces HLT and a timer, since the guest takes no
 * interrupts. A pause ends the sleep early; the guest then reads the clock and sleeps again if it must.
 */
export class Pacer implements PortDevice {
  readonly firstPort = PORT_PACER;
  readonly portCount = 4;
  readonly #sleep: (milliseconds: number) => void;

  /** @param sleep returns early when the main thread gives this vCPU an order */
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
