import type { MigratableDevice } from '@godwit/core';
import { requireVersion, StateReader, StateWriter, stateBytesOf } from '../state/state-sections.js';
import { BoardWord, type SharedBoard } from '../vcpu/shared-board.js';
import type { PortDevice } from './port-device.js';

/**
 * Power management of ACPI (ACPI 6.5, 4.8.3): the event registers, status and enable, two bytes each, then the control register. The FADT
 * of the guest names both ports.
 */
export const POWER_EVENT_PORT = 0x600;
export const POWER_CONTROL_PORT = 0x604;
/** The interrupt of the power button: a rising edge at a pin that no device of a PC needs. */
export const POWER_BUTTON_IRQ = 11;
/** Bytes of the event registers, and of the control register. */
export const POWER_EVENT_BYTES = 4;
export const POWER_CONTROL_BYTES = 2;
/** The sleep type that means "off", which the guest finds in its `\_S5` object. */
export const SLEEP_TYPE_OFF = 5;

/** Control register: ACPI is on; bits 10 to 12 the sleep type; go to sleep now. */
const ACPI_ON = 0x0001;
const SLEEP_TYPE_SHIFT = 10;
const SLEEP_TYPE_MASK = 0x7;
const SLEEP_ENABLE = 0x2000;

/** The ports with which the guest switches itself off. No event is ever pending: there is no timer, and the power
 * button has an interrupt of its own. */
export class PowerPort implements PortDevice {
  readonly firstPort = POWER_EVENT_PORT;
  readonly portCount = POWER_EVENT_BYTES + POWER_CONTROL_BYTES;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #off: () => void;

  constructor({ words }: SharedBoard, off: () => void) {
    this.#words = words;
    this.#off = off;
  }

  read(port: number, size: number): number {
    if (port === POWER_CONTROL_PORT) return ACPI_ON;
    const enabled = Atomics.load(this.#words, BoardWord.powerEvents);
    if (port === POWER_EVENT_PORT) return size === 4 ? (enabled << 16) >>> 0 : 0;
    return port === POWER_EVENT_PORT + 2 ? enabled : 0;
  }

  write(port: number, size: number, value: number): void {
    if (port === POWER_EVENT_PORT && size === 4) Atomics.store(this.#words, BoardWord.powerEvents, value >>> 16);
    if (port === POWER_EVENT_PORT + 2) Atomics.store(this.#words, BoardWord.powerEvents, value & 0xffff);
    if (port !== POWER_CONTROL_PORT || (value & SLEEP_ENABLE) === 0) return;
    if (((value >>> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK) === SLEEP_TYPE_OFF) this.#off();
  }
}

/** The event enable register as a device: saved and loaded only while all vCPUs are parked. */
export class PowerState implements MigratableDevice {
  readonly id = 'power';
  readonly version = 1;
  readonly maximumStateBytes = stateBytesOf(2);
  readonly #words: Int32Array<SharedArrayBuffer>;

  constructor({ words }: SharedBoard) {
    this.#words = words;
  }

  async *save(): AsyncIterable<Uint8Array> {
    const enabled = Uint16Array.of(Atomics.load(this.#words, BoardWord.powerEvents));
    yield new StateWriter().section('PM1E', new Uint8Array(enabled.buffer)).finish();
  }

  async load(state: AsyncIterable<Uint8Array>, version: number): Promise<void> {
    requireVersion(this.id, version, this.version);
    const reader = await StateReader.read(this.id, state, ['PM1E']);
    const enabled = new DataView(reader.required('PM1E', 2).buffer).getUint16(0, true);
    Atomics.store(this.#words, BoardWord.powerEvents, enabled);
  }

  /** Returns no pages: the state is on the `SharedBoard`. */
  loadWrites(): readonly [] {
    return [];
  }
}
