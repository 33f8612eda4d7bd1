import type { GuestMemory } from '@godwit/core';
import { PORT_LINE } from '../guest/ports.js';
import { guestBytes } from '../machine/memory-map.js';
import type { PortDevice } from './port-device.js';

/** The most bytes of a line: with its length it is at most a page. */
const LONGEST_LINE = 4092;

/**
 * Prints a line in one exit: the guest writes the address of `{ u32 length; u8 text[length] }`. The guest is not trusted: an address
 * outside RAM or a length beyond a page prints nothing.
 */
export class LinePort implements PortDevice {
  readonly firstPort = PORT_LINE;
  readonly portCount = 4;
  readonly #memory: GuestMemory;
  readonly #print: (text: Uint8Array) => void;

  constructor(memory: GuestMemory, print: (text: Uint8Array) => void) {
    this.#memory = memory;
    this.#print = print;
  }

  read(): number {
    return 0;
  }

  write(_port: number, _size: number, address: number): void {
    const header = guestBytes(this.#memory, address, 4);
    if (header === undefined) return;
    const length = new DataView(header.buffer, header.byteOffset, 4).getUint32(0, true);
    if (length > LONGEST_LINE) return;
    const text = guestBytes(this.#memory, address + 4, length);
    if (text !== undefined) this.#print(text);
  }
}
