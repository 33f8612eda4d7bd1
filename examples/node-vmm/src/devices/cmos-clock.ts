import type { MigratableDevice } from '@godwit/core';
import { requireVersion, StateReader, StateWriter, stateBytesOf } from '../state/state-sections.js';
import { BoardWord, CMOS_BYTES, type SharedBoard } from '../vcpu/shared-board.js';
import type { PortDevice } from './port-device.js';

/** The ports of a PC's clock: the number of a byte, and the byte. */
export const CMOS_PORT = 0x70;
/** Bit 7 of the number masks non-maskable interrupts, of which there are none. */
const NUMBER_MASK = 0x7f;

/** Bytes of the time (Motorola MC146818A), and IBM's for the century. The alarm's are between them. */
const Time = { second: 0, minute: 2, hour: 4, weekday: 6, day: 7, month: 8, year: 9, century: 0x32 } as const;
const TIME_BYTES: readonly number[] = Object.values(Time);
const STATUS_A = 0x0a;
const STATUS_B = 0x0b;
const STATUS_C = 0x0c;
const STATUS_D = 0x0d;
/** Status A: the usual divider and rate. No update is ever in progress. */
const USUAL_RATE = 0x26;
/** Status B: the time is being set, and stands still; binary numbers; 24 hours. The interrupts' bits stay 0. */
const SETTING = 0x80;
const BINARY = 0x04;
const HOURS_24 = 0x02;
/** Status D: the battery is good. */
const VALID = 0x80;
const AFTERNOON = 0x80;
const MILLISECONDS = 1000;

/**
 * The clock of a PC, without its interrupts, and its memory of 128 bytes. The time is the host's, plus what the guest has set it ahead. All
 * threads share its bytes; a guest lets one processor at a time use it, since the number and the byte are two accesses.
 */
export class CmosClock implements PortDevice {
  readonly firstPort = CMOS_PORT;
  readonly portCount = 2;
  readonly #board: SharedBoard;
  readonly #now: () => number;

  /** @param now milliseconds since 1970, UTC */
  constructor(board: SharedBoard, now: () => number = Date.now) {
    this.#board = board;
    this.#now = now;
  }

  read(port: number): number {
    if (port === CMOS_PORT) return 0xff;
    const { cmos } = this.#board;
    const number = this.#number;
    if (number === STATUS_A) return USUAL_RATE;
    if (number === STATUS_C) return 0;
    if (number === STATUS_D) return VALID;
    if (TIME_BYTES.includes(number) && !this.#isSetting) this.#showTime();
    return cmos[number] as number;
  }

  write(port: number, _size: number, value: number): void {
    const { words, cmos } = this.#board;
    if (port === CMOS_PORT) {
      Atomics.store(words, BoardWord.cmosNumber, value & NUMBER_MASK);
      return;
    }
    const number = this.#number;
    if (number === STATUS_B) {
      this.#setStatusB(value & (SETTING | BINARY | HOURS_24));
      return;
    }
    if (number === STATUS_A || number === STATUS_C || number === STATUS_D) return;
    const isTime = TIME_BYTES.includes(number) && !this.#isSetting;
    if (isTime) this.#showTime();
    cmos[number] = value;
    if (isTime) this.#takeTime();
  }

  get #number(): number {
    return Atomics.load(this.#board.words, BoardWord.cmosNumber);
  }

  get #isSetting(): boolean {
    return ((this.#board.cmos[STATUS_B] as number) & SETTING) !== 0;
  }

  #setStatusB(value: number): void {
    const { cmos } = this.#board;
    const wasSetting = this.#isSetting;
    if (!wasSetting) this.#showTime();
    cmos[STATUS_B] = value;
    if (wasSetting && !this.#isSetting) this.#takeTime();
  }

  /** Writes the present time into the bytes. */
  #showTime(): void {
    const { cmos, cmosAheadMs } = this.#board;
    const time = new Date(this.#now() + (cmosAheadMs[0] as number));
    const hour = time.getUTCHours();
    const is24 = ((cmos[STATUS_B] as number) & HOURS_24) !== 0;
    cmos[Time.second] = this.#encode(time.getUTCSeconds());
    cmos[Time.minute] = this.#encode(time.getUTCMinutes());
    cmos[Time.hour] = is24 ? this.#encode(hour) : this.#encode(hour % 12 || 12) | (hour >= 12 ? AFTERNOON : 0);
    cmos[Time.weekday] = this.#encode(time.getUTCDay() + 1);
    cmos[Time.day] = this.#encode(time.getUTCDate());
    cmos[Time.month] = this.#encode(time.getUTCMonth() + 1);
    cmos[Time.year] = this.#encode(time.getUTCFullYear() % 100);
    cmos[Time.century] = this.#encode(Math.floor(time.getUTCFullYear() / 100));
  }

  /** Takes the bytes for the present time; bytes that are no time change nothing. */
  #takeTime(): void {
    const { cmos, cmosAheadMs } = this.#board;
    const number = (at: number): number => this.#decode(cmos[at] as number);
    const byte = cmos[Time.hour] as number;
    const is24 = ((cmos[STATUS_B] as number) & HOURS_24) !== 0;
    const hour = is24
      ? this.#decode(byte)
      : (this.#decode(byte & ~AFTERNOON) % 12) + ((byte & AFTERNOON) !== 0 ? 12 : 0);
    const year = number(Time.century) * 100 + number(Time.year);
    const given = Date.UTC(
      year,
      number(Time.month) - 1,
      number(Time.day),
      hour,
      number(Time.minute),
      number(Time.second),
    );
    if (Number.isFinite(given)) cmosAheadMs[0] = given - Math.floor(this.#now() / MILLISECONDS) * MILLISECONDS;
  }

  #encode(value: number): number {
    return this.#isBinary ? value : Math.floor(value / 10) * 16 + (value % 10);
  }

  #decode(byte: number): number {
    return this.#isBinary ? byte : (byte >> 4) * 10 + (byte & 0xf);
  }

  get #isBinary(): boolean {
    return ((this.#board.cmos[STATUS_B] as number) & BINARY) !== 0;
  }
}

/** The clock's bytes and how far it is ahead, as a device: saved and loaded only while all vCPUs are parked. */
export class CmosState implements MigratableDevice {
  readonly id = 'cmos';
  readonly version = 1;
  readonly maximumStateBytes = stateBytesOf(CMOS_BYTES, 8, 4);
  readonly #board: SharedBoard;

  constructor(board: SharedBoard) {
    this.#board = board;
    board.cmos[STATUS_B] = HOURS_24;
  }

  async *save(): AsyncIterable<Uint8Array> {
    const { cmos, cmosAheadMs, words } = this.#board;
    const number = Uint32Array.of(Atomics.load(words, BoardWord.cmosNumber));
    yield new StateWriter()
      .section('CMOS', Uint8Array.from(cmos))
      .section('AHED', new Uint8Array(Float64Array.from(cmosAheadMs).buffer))
      .section('NMBR', new Uint8Array(number.buffer))
      .finish();
  }

  async load(state: AsyncIterable<Uint8Array>, version: number): Promise<void> {
    requireVersion(this.id, version, this.version);
    const reader = await StateReader.read(this.id, state, ['CMOS', 'AHED', 'NMBR']);
    const bytes = reader.required('CMOS', CMOS_BYTES);
    const ahead = new DataView(reader.required('AHED', 8).buffer).getFloat64(0, true);
    const number = new DataView(reader.required('NMBR', 4).buffer).getUint32(0, true);
    this.#board.cmos.set(bytes);
    this.#board.cmosAheadMs[0] = Number.isFinite(ahead) ? ahead : 0;
    Atomics.store(this.#board.words, BoardWord.cmosNumber, number & NUMBER_MASK);
  }

  /** Returns no pages: the state is on the `SharedBoard`. */
  loadWrites(): readonly [] {
    return [];
  }
}
