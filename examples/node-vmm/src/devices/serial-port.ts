import type { MigratableDevice } from '@godwit/core';
import { requireVersion, StateReader, StateWriter, stateBytesOf } from '../state/state-sections.js';
import { BoardWord, type SharedBoard } from '../vcpu/shared-board.js';
import type { ConsoleRing } from './console-ring.js';
import type { PortDevice } from './port-device.js';

/** COM1. */
export const SERIAL_PORT = 0x3f8;
/** Register offsets of a 16550 (National Semiconductor PC16550D, table II). */
const DATA = 0;
const INTERRUPT_ENABLE = 1;
const INTERRUPT_IDENTIFICATION = 2;
const LINE_CONTROL = 3;
const MODEM_CONTROL = 4;
const LINE_STATUS = 5;
const MODEM_STATUS = 6;
const SCRATCH = 7;
/** Line control bit 7: registers 0 and 1 are the baud rate divisor. */
const DIVISOR_LATCH = 0x80;
/** No interrupt pending. */
const NO_INTERRUPT = 0x01;
/** Transmitter holding register and transmitter empty: a byte that is written is sent at once. */
const TRANSMITTER_EMPTY = 0x60;
/** Data set ready, clear to send, data carrier detect. */
const MODEM_READY = 0xb0;
/** The divisor is stored in the places of the two read-only registers. */
const DIVISOR_LOW = LINE_STATUS;
const DIVISOR_HIGH = MODEM_STATUS;
const REGISTERS = 8;

/**
 * A serial port like a 16550 that only prints: no input, no interrupts, no baud rate. Text is appended to the console ring as it is
 * written, and the main thread has all of it once a pause has resolved, so that no text is left to migrate.
 */
export class SerialPort implements PortDevice {
  readonly firstPort = SERIAL_PORT;
  readonly portCount = REGISTERS;
  readonly #registers: Int32Array<SharedArrayBuffer>;
  readonly #print: (text: Uint8Array) => void;
  readonly #one = new Uint8Array(1);

  constructor(board: SharedBoard, print: (text: Uint8Array) => void) {
    this.#registers = serialRegisters(board);
    this.#print = print;
  }

  read(port: number): number {
    const registers = this.#registers;
    const divisor = ((registers[LINE_CONTROL] as number) & DIVISOR_LATCH) !== 0;
    switch (port - SERIAL_PORT) {
      case DATA:
        return divisor ? (registers[DIVISOR_LOW] as number) : 0;
      case INTERRUPT_ENABLE:
        return divisor ? (registers[DIVISOR_HIGH] as number) : (registers[INTERRUPT_ENABLE] as number);
      case INTERRUPT_IDENTIFICATION:
        return NO_INTERRUPT;
      case LINE_STATUS:
        return TRANSMITTER_EMPTY;
      case MODEM_STATUS:
        return MODEM_READY;
      default:
        return registers[port - SERIAL_PORT] as number;
    }
  }

  write(port: number, _size: number, value: number): void {
    const registers = this.#registers;
    const divisor = ((registers[LINE_CONTROL] as number) & DIVISOR_LATCH) !== 0;
    const byte = value & 0xff;
    switch (port - SERIAL_PORT) {
      case DATA:
        if (divisor) {
          registers[DIVISOR_LOW] = byte;
        } else {
          this.#one[0] = byte;
          this.#print(this.#one);
        }
        return;
      case INTERRUPT_ENABLE:
        registers[divisor ? DIVISOR_HIGH : INTERRUPT_ENABLE] = byte;
        return;
      case LINE_CONTROL:
      case MODEM_CONTROL:
      case SCRATCH:
        registers[port - SERIAL_PORT] = byte;
        return;
      default:
        // Writes to FIFO control and to the two read-only registers have no effect.
        return;
    }
  }

  writeString(port: number, size: number, data: Uint8Array): void {
    const divisor = ((this.#registers[LINE_CONTROL] as number) & DIVISOR_LATCH) !== 0;
    if (port === SERIAL_PORT && size === 1 && !divisor) this.#print(data);
    else for (let i = 0; i < data.byteLength; i += size) this.write(port, 1, data[i] as number);
  }
}

/** The state of the serial port's registers as a device. It is saved and loaded only while all vCPUs are parked. */
export class SerialPortState implements MigratableDevice {
  readonly id = 'serial';
  readonly version = 1;
  readonly maximumStateBytes = stateBytesOf(REGISTERS);
  readonly #registers: Int32Array<SharedArrayBuffer>;
  readonly #drain: () => void;

  /** @param drain delivers all text that the guest has printed */
  constructor(board: SharedBoard, drain: () => void) {
    this.#registers = serialRegisters(board);
    this.#drain = drain;
  }

  async *save(): AsyncIterable<Uint8Array> {
    this.#drain();
    yield new StateWriter().section('UART', Uint8Array.from(this.#registers)).finish();
  }

  async load(state: AsyncIterable<Uint8Array>, version: number): Promise<void> {
    requireVersion(this.id, version, this.version);
    const reader = await StateReader.read(this.id, state, ['UART']);
    this.#registers.set(reader.required('UART', REGISTERS));
  }

  /** Returns no pages: the state is on the `SharedBoard`. */
  loadWrites(): readonly [] {
    return [];
  }
}

/** Decodes the console text of a ring; a character of several bytes may come in two pieces. */
export class ConsoleDecoder {
  readonly #ring: ConsoleRing;
  readonly #decoder = new TextDecoder();

  constructor(ring: ConsoleRing) {
    this.#ring = ring;
  }

  /** All text since the last call, or the empty string. */
  take(): string {
    const bytes = this.#ring.take();
    return bytes === undefined ? '' : this.#decoder.decode(bytes, { stream: true });
  }
}

function serialRegisters(board: SharedBoard): Int32Array<SharedArrayBuffer> {
  return board.words.subarray(BoardWord.serialRegisters, BoardWord.serialRegisters + REGISTERS);
}
