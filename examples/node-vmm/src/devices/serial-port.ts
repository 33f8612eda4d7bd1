import type { PortDevice } from './port-device.js';
import { SerialRegister, type SerialWords } from './serial-words.js';

/** COM1. */
export const SERIAL_PORT = 0x3f8;
/** COM1's interrupt on a PC. */
export const SERIAL_IRQ = 4;
/** Register offsets of a 16550 (National Semiconductor PC16550D, table II). */
const DATA = 0;
const INTERRUPT_ENABLE = 1;
/** Read: interrupt identification. Written: FIFO control. */
const INTERRUPT_IDENTIFICATION = 2;
const LINE_CONTROL = 3;
const MODEM_CONTROL = 4;
const LINE_STATUS = 5;
const MODEM_STATUS = 6;
const SCRATCH = 7;
const REGISTERS = 8;
/** Line control bit 7: registers 0 and 1 are the baud rate divisor. */
const DIVISOR_LATCH = 0x80;
/** Interrupt enable: of received data, of an empty transmitter. The two others never occur. */
const RECEIVED = 0x01;
const TRANSMITTED = 0x02;
const ENABLE_MASK = 0x0f;
/** Interrupt identification, the most urgent first. */
const RECEIVED_INTERRUPT = 0x04;
const TRANSMITTED_INTERRUPT = 0x02;
const NO_INTERRUPT = 0x01;
const FIFOS_ON = 0xc0;
/** FIFO control: enable, clear the receiver. */
const FIFO_ENABLE = 0x01;
const FIFO_CLEAR_RECEIVER = 0x02;
/** Transmitter holding register and transmitter empty: a byte that is written is sent at once. */
const TRANSMITTER_EMPTY = 0x60;
const DATA_READY = 0x01;
/** Modem control: the outputs are connected to the inputs. */
const LOOPBACK = 0x10;
/** Data set ready, clear to send, data carrier detect. */
const MODEM_READY = 0xb0;

/**
 * A serial port like a 16550, as the thread of one vCPU sees it. Text is appended to the console ring as it is written, and the main
 * thread has all of it once a pause has resolved, so that no text is left to migrate. Input waits in `SerialWords`. There is no baud rate,
 * and the receiver has room for more bytes than a 16550's 16.
 */
export class SerialPort implements PortDevice {
  readonly firstPort = SERIAL_PORT;
  readonly portCount = REGISTERS;
  readonly #words: SerialWords;
  readonly #print: (text: Uint8Array) => void;
  readonly #setInterrupt: (high: boolean) => void;
  readonly #one = new Uint8Array(1);

  /** @param setInterrupt sets the level of the interrupt line */
  constructor(words: SerialWords, print: (text: Uint8Array) => void, setInterrupt: (high: boolean) => void) {
    this.#words = words;
    this.#print = print;
    this.#setInterrupt = setInterrupt;
  }

  read(port: number): number {
    return this.#words.exclusively(() => this.#read(port - SERIAL_PORT));
  }

  write(port: number, _size: number, value: number): void {
    const register = port - SERIAL_PORT;
    const byte = value & 0xff;
    // Outside the lock: a full console ring makes the vCPU wait.
    if (register === DATA && !this.#divisor && (this.#words.get(SerialRegister.modemControl) & LOOPBACK) === 0) {
      this.#one[0] = byte;
      this.#print(this.#one);
    }
    this.#words.exclusively(() => this.#write(register, byte));
  }

  writeString(port: number, size: number, data: Uint8Array): void {
    if (port === SERIAL_PORT && size === 1 && !this.#divisor) {
      this.#print(data);
      this.#words.exclusively(() => this.#transmitted());
      return;
    }
    for (let i = 0; i < data.byteLength; i += size) this.write(port, 1, data[i] as number);
  }

  get #divisor(): boolean {
    return (this.#words.get(SerialRegister.lineControl) & DIVISOR_LATCH) !== 0;
  }

  #read(register: number): number {
    const words = this.#words;
    switch (register) {
      case DATA: {
        if (this.#divisor) return words.get(SerialRegister.divisorLow);
        const byte = words.takeInput();
        updateInterrupt(words, this.#setInterrupt);
        return byte;
      }
      case INTERRUPT_ENABLE:
        return words.get(this.#divisor ? SerialRegister.divisorHigh : SerialRegister.interruptEnable);
      case INTERRUPT_IDENTIFICATION:
        return this.#identify();
      case LINE_CONTROL:
        return words.get(SerialRegister.lineControl);
      case MODEM_CONTROL:
        return words.get(SerialRegister.modemControl);
      case LINE_STATUS:
        return TRANSMITTER_EMPTY | (words.hasInput ? DATA_READY : 0);
      case MODEM_STATUS:
        return modemStatus(words.get(SerialRegister.modemControl));
      default:
        return words.get(SerialRegister.scratch);
    }
  }

  #identify(): number {
    const words = this.#words;
    const fifos = words.get(SerialRegister.fifosOn) !== 0 ? FIFOS_ON : 0;
    const interrupt = pendingInterrupt(words);
    // Reading this register acknowledges the interrupt of the empty transmitter.
    if (interrupt === TRANSMITTED_INTERRUPT) {
      words.set(SerialRegister.transmitted, 0);
      updateInterrupt(words, this.#setInterrupt);
    }
    return fifos | interrupt;
  }

  #write(register: number, byte: number): void {
    const words = this.#words;
    switch (register) {
      case DATA:
        if (this.#divisor) words.set(SerialRegister.divisorLow, byte);
        else this.#transmitted();
        return;
      case INTERRUPT_ENABLE: {
        if (this.#divisor) {
          words.set(SerialRegister.divisorHigh, byte);
          return;
        }
        const before = words.get(SerialRegister.interruptEnable);
        words.set(SerialRegister.interruptEnable, byte & ENABLE_MASK);
        // The transmitter is always empty, so that its interrupt is due as soon as it is enabled.
        if ((byte & ~before & TRANSMITTED) !== 0) words.set(SerialRegister.transmitted, 1);
        updateInterrupt(words, this.#setInterrupt);
        return;
      }
      case INTERRUPT_IDENTIFICATION:
        words.set(SerialRegister.fifosOn, byte & FIFO_ENABLE);
        if ((byte & FIFO_CLEAR_RECEIVER) !== 0) words.clearInput();
        updateInterrupt(words, this.#setInterrupt);
        return;
      case LINE_CONTROL:
        words.set(SerialRegister.lineControl, byte);
        return;
      case MODEM_CONTROL:
        words.set(SerialRegister.modemControl, byte);
        return;
      case SCRATCH:
        words.set(SerialRegister.scratch, byte);
        return;
      default:
        // Line status and modem status are read-only.
        return;
    }
  }

  /** Records that a byte was sent and the transmitter is empty again, and requests its interrupt. */
  #transmitted(): void {
    const words = this.#words;
    words.set(SerialRegister.transmitted, 1);
    // The line goes low in between, since the interrupt is triggered by an edge.
    if (words.lineHigh && pendingInterrupt(words) === TRANSMITTED_INTERRUPT) setLine(words, false, this.#setInterrupt);
    updateInterrupt(words, this.#setInterrupt);
  }
}

/** Sets the interrupt line to the level that the registers and the input require. To be called within `exclusively`. */
export function updateInterrupt(words: SerialWords, setInterrupt: (high: boolean) => void): void {
  const high = pendingInterrupt(words) !== NO_INTERRUPT;
  if (high !== words.lineHigh) setLine(words, high, setInterrupt);
}

function setLine(words: SerialWords, high: boolean, setInterrupt: (high: boolean) => void): void {
  words.lineHigh = high;
  setInterrupt(high);
}

function pendingInterrupt(words: SerialWords): number {
  const enabled = words.get(SerialRegister.interruptEnable);
  if ((enabled & RECEIVED) !== 0 && words.hasInput) return RECEIVED_INTERRUPT;
  if ((enabled & TRANSMITTED) !== 0 && words.get(SerialRegister.transmitted) !== 0) return TRANSMITTED_INTERRUPT;
  return NO_INTERRUPT;
}

/** In loopback data terminal ready is seen as data set ready, request to send as clear to send, and the two outputs as ring and carrier. */
function modemStatus(control: number): number {
  if ((control & LOOPBACK) === 0) return MODEM_READY;
  return ((control & 0x01) << 5) | ((control & 0x02) << 3) | ((control & 0x0c) << 4);
}
