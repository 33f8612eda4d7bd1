import { SharedLock } from '../vcpu/shared-lock.js';

/** The registers of the serial port that hold a value. All of them migrate. */
export const SerialRegister = {
  /** 1 while the interrupt of the empty transmitter is due: from a sent byte, or from enabling it, until the guest identifies it. */
  transmitted: 0,
  interruptEnable: 1,
  fifosOn: 2,
  lineControl: 3,
  modemControl: 4,
  divisorLow: 5,
  divisorHigh: 6,
  scratch: 7,
} as const;

export const SERIAL_REGISTERS = 8;

/** Words after the registers. */
const LOCK = 8;
const LINE_HIGH = 9;
const INPUT_WRITTEN = 10;
const INPUT_TAKEN = 11;
export const SERIAL_WORDS = 12;

/** Room for input, a power of two: more than anybody types while a guest is busy. */
export const SERIAL_INPUT_BYTES = 4096;

/** The shared memory of the state: `SERIAL_WORDS` words, and `SERIAL_INPUT_BYTES` bytes of input. */
export interface SerialStorage {
  readonly serial: Int32Array<SharedArrayBuffer>;
  readonly serialInput: Uint8Array<SharedArrayBuffer>;
}

/** The state of the serial port, which all vCPU threads and the main thread share: registers, the interrupt line's level, input. */
export class SerialWords {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #input: Uint8Array<SharedArrayBuffer>;
  readonly #lock: SharedLock;

  /** @param storage `serial` and `serialInput` of the `SharedBoard` */
  constructor({ serial, serialInput }: SerialStorage) {
    this.#words = serial;
    this.#input = serialInput;
    this.#lock = new SharedLock(serial, LOCK);
  }

  /** Calls `work` while no other thread is in a call of `exclusively`. `work` has to be short, and must not wait. */
  exclusively<T>(work: () => T): T {
    return this.#lock.exclusively(work);
  }

  get(register: number): number {
    return Atomics.load(this.#words, register);
  }

  set(register: number, value: number): void {
    Atomics.store(this.#words, register, value);
  }

  /** The level that the interrupt line was last given. */
  get lineHigh(): boolean {
    return this.#words[LINE_HIGH] !== 0;
  }

  set lineHigh(high: boolean) {
    this.#words[LINE_HIGH] = high ? 1 : 0;
  }

  get hasInput(): boolean {
    return this.#waiting > 0;
  }

  /** Adds input; returns how many bytes there was room for. */
  addInput(bytes: Uint8Array): number {
    const room = Math.min(bytes.byteLength, SERIAL_INPUT_BYTES - this.#waiting);
    const at = this.#words[INPUT_WRITTEN] as number;
    for (let i = 0; i < room; i++) this.#input[(at + i) & (SERIAL_INPUT_BYTES - 1)] = bytes[i] as number;
    this.#words[INPUT_WRITTEN] = (at + room) | 0;
    return room;
  }

  /** Takes the oldest byte of input; 0 when there is none. */
  takeInput(): number {
    if (!this.hasInput) return 0;
    const at = this.#words[INPUT_TAKEN] as number;
    this.#words[INPUT_TAKEN] = (at + 1) | 0;
    return this.#input[at & (SERIAL_INPUT_BYTES - 1)] as number;
  }

  clearInput(): void {
    this.#words[INPUT_TAKEN] = this.#words[INPUT_WRITTEN] as number;
  }

  /** Returns all input that waits, without taking it. */
  peekInput(): Uint8Array {
    const at = this.#words[INPUT_TAKEN] as number;
    return Uint8Array.from(
      { length: this.#waiting },
      (_, i) => this.#input[(at + i) & (SERIAL_INPUT_BYTES - 1)] as number,
    );
  }

  get #waiting(): number {
    return ((this.#words[INPUT_WRITTEN] as number) - (this.#words[INPUT_TAKEN] as number)) | 0;
  }
}
