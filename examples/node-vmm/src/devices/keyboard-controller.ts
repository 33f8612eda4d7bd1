import type { PortDevice } from './port-device.js';

/** The status and command port of a PC's keyboard controller (8042). */
export const KEYBOARD_COMMAND_PORT = 0x64;
/** The command that pulses the processor's reset line. */
export const KEYBOARD_RESET = 0xfe;

/** A keyboard controller without a keyboard: the guest resets the machine with it. It is never busy, and never has data. */
export class KeyboardController implements PortDevice {
  readonly firstPort = KEYBOARD_COMMAND_PORT;
  readonly portCount = 1;
  readonly #reset: () => void;

  constructor(reset: () => void) {
    this.#reset = reset;
  }

  read(): number {
    return 0;
  }

  write(_port: number, _size: number, value: number): void {
    if ((value & 0xff) === KEYBOARD_RESET) this.#reset();
  }
}
