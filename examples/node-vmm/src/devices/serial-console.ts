import { GodwitError, type MigratableDevice } from '@godwit/core';
import { requireVersion, StateReader, StateWriter, stateBytesOf } from '../state/state-sections.js';
import { updateInterrupt } from './serial-port.js';
import { SERIAL_INPUT_BYTES, SERIAL_REGISTERS, type SerialWords } from './serial-words.js';

/** The most input that waits for room in the port, in bytes: enough for what a person types. */
const MOST_INPUT_BYTES = 2 ** 20;
/** The time between two checks for room while input waits. Milliseconds. */
const ROOM_MS = 10;

/** The main thread's side of the serial port: its input, and its state as a device, which is saved and loaded while all vCPUs are parked. */
export class SerialConsole implements MigratableDevice {
  readonly id = 'serial';
  readonly version = 2;
  readonly maximumStateBytes = stateBytesOf(SERIAL_REGISTERS, SERIAL_INPUT_BYTES);
  readonly #words: SerialWords;
  readonly #setInterrupt: (high: boolean) => void;
  readonly #drain: () => void;
  #waiting: Uint8Array = new Uint8Array(0);
  #timer: NodeJS.Timeout | undefined;

  /**
   * @param setInterrupt sets the level of the interrupt line
   * @param drain delivers all text that the guest has printed
   */
  constructor(words: SerialWords, setInterrupt: (high: boolean) => void, drain: () => void) {
    this.#words = words;
    this.#setInterrupt = setInterrupt;
    this.#drain = drain;
  }

  /**
   * Adds input to the guest's console.
   *
   * @throws GodwitError GODWIT_INVALID_STATE when the guest reads so little that a mebibyte waits already: nothing of `bytes` was taken
   */
  type(bytes: Uint8Array): void {
    if (this.#waiting.byteLength + bytes.byteLength > MOST_INPUT_BYTES) {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        `the guest does not read its console: ${this.#waiting.byteLength} bytes wait for it already`,
      );
    }
    this.#waiting = Buffer.concat([this.#waiting, bytes]);
    this.#pass();
  }

  /** Drops the input that the guest has not read. */
  close(): void {
    clearTimeout(this.#timer);
    this.#waiting = new Uint8Array(0);
  }

  async *save(): AsyncIterable<Uint8Array> {
    this.#drain();
    const registers = Uint8Array.from({ length: SERIAL_REGISTERS }, (_, i) => this.#words.get(i));
    yield new StateWriter().section('UART', registers).section('INPT', this.#words.peekInput()).finish();
  }

  async load(state: AsyncIterable<Uint8Array>, version: number): Promise<void> {
    requireVersion(this.id, version, this.version);
    const reader = await StateReader.read(this.id, state, ['UART', 'INPT']);
    const registers = reader.required('UART', SERIAL_REGISTERS);
    const input = reader.required('INPT');
    if (input.byteLength > SERIAL_INPUT_BYTES) {
      throw new GodwitError(
        'GODWIT_DEVICE_FAILED',
        `the state of serial has ${input.byteLength} bytes of input, of which ${SERIAL_INPUT_BYTES} fit`,
      );
    }
    this.#words.exclusively(() => {
      registers.forEach((value, i) => {
        this.#words.set(i, value);
      });
      this.#words.clearInput();
      this.#words.addInput(input);
      // The chipset, which was loaded before, has the interrupts that were raised when it was saved. If the port needs its interrupt, it is
      // raised once more: it may have been raised after the chipset was saved.
      this.#words.lineHigh = false;
      updateInterrupt(this.#words, this.#setInterrupt);
    });
  }

  /** Returns no pages: the state is on the `SharedBoard`. */
  loadWrites(): readonly [] {
    return [];
  }

  #pass(): void {
    this.#words.exclusively(() => {
      this.#waiting = this.#waiting.subarray(this.#words.addInput(this.#waiting));
      updateInterrupt(this.#words, this.#setInterrupt);
    });
    clearTimeout(this.#timer);
    if (this.#waiting.byteLength > 0) this.#timer = setTimeout(() => this.#pass(), ROOM_MS);
  }
}
