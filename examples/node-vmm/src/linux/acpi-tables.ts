import { GENERATION_ADDRESS } from '../devices/generation-id.js';
import { KEYBOARD_COMMAND_PORT, KEYBOARD_RESET } from '../devices/keyboard-controller.js';
import {
  POWER_CONTROL_BYTES,
  POWER_CONTROL_PORT,
  POWER_EVENT_BYTES,
  POWER_EVENT_PORT,
  SLEEP_TYPE_OFF,
} from '../devices/power-port.js';
import { namedPackage, virtioScope } from './aml.js';
import { eventScope } from './event-device.js';

/** Where a PC's BIOS has its tables, and where Linux looks for the root pointer. Guest-physical. */
export const ACPI_ADDRESS = 0xe_0000;
/** The end of the BIOS's area. */
export const ACPI_END = 0x10_0000;

const LOCAL_APIC_ADDRESS = 0xfee0_0000;
const IO_APIC_ADDRESS = 0xfec0_0000;
/** The interrupt of power management, which the FADT has to name. No event raises it. */
const POWER_IRQ = 9;
/** Active high, triggered by level (ACPI 6.5, table 5.26). */
const HIGH_LEVEL = 0xd;
/** MADT: there are two 8259 as well. */
const DUAL_8259 = 1;
/** FADT, boot architecture: legacy devices, among them the CMOS clock; no VGA. No 8042 is promised. */
const LEGACY_DEVICES = 0x01;
const NO_VGA = 0x04;
/**
 * FADT, flags: WBINVD works, C1 on all processors, the power button is a device of its own, no sleep button, no wake-up by the clock, a
 * reset register.
 */
const FADT_FLAGS = 0x1 | 0x4 | 0x10 | 0x20 | 0x40 | 0x400;
const HEADER_BYTES = 36;
const FADT_BYTES = 276;
const FACS_BYTES = 64;

/** A description of the machine as an operating system reads it: ACPI 6.5, chapter 5. All numbers are little-endian. */
export interface AcpiTables {
  readonly address: number;
  readonly bytes: Uint8Array;
}

/**
 * The tables of a machine with so many processors, an IOAPIC, two PICs, COM1, the power port and the reset command of the keyboard
 * controller, the clock, the power button and the identifier of its generation. The root pointer comes first.
 *
 * @param vcpus at most 255; the local APIC of each has its number
 * @param virtioDevices number of virtio devices, from the first slot on
 */
export function acpiTables(vcpus: number, virtioDevices = 0): AcpiTables {
  const memory = new Uint8Array(ACPI_END - ACPI_ADDRESS);
  let next = 64;
  const place = (bytes: Uint8Array): number => {
    const at = next;
    memory.set(bytes, at);
    next = Math.ceil((at + bytes.byteLength) / 64) * 64;
    return ACPI_ADDRESS + at;
  };
  const facs = place(firmwareControl());
  const dsdt = place(table('DSDT', 2, Buffer.concat([sleepObject(), eventScope(), virtioScope(virtioDevices)])));
  const fadt = place(fixedDescription(facs, dsdt));
  const madt = place(table('APIC', 4, interruptControllers(vcpus)));
  const root = place(table('XSDT', 1, quads(fadt, madt)));
  memory.set(rootPointer(root), 0);
  if (ACPI_ADDRESS + next > GENERATION_ADDRESS) throw new RangeError(`the ACPI tables have ${next} bytes`);
  return { address: ACPI_ADDRESS, bytes: memory.subarray(0, next) };
}

/** Sum of all bytes, which is 0 in every table. */
export function acpiChecksum(bytes: Uint8Array): number {
  return bytes.reduce((sum, byte) => (sum + byte) & 0xff, 0);
}

function rootPointer(xsdt: number): Uint8Array {
  const bytes = new Uint8Array(36);
  const view = new DataView(bytes.buffer);
  bytes.set(Buffer.from('RSD PTR '));
  bytes.set(Buffer.from('GODWIT'), 9);
  bytes[15] = 2;
  view.setUint32(20, bytes.byteLength, true);
  view.setBigUint64(24, BigInt(xsdt), true);
  bytes[8] = -acpiChecksum(bytes.subarray(0, 20)) & 0xff;
  bytes[32] = -acpiChecksum(bytes) & 0xff;
  return bytes;
}

/** A table: its header, then `body`. */
function table(signature: string, revision: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + body.byteLength);
  const view = new DataView(bytes.buffer);
  bytes.set(Buffer.from(signature));
  view.setUint32(4, bytes.byteLength, true);
  bytes[8] = revision;
  bytes.set(Buffer.from('GODWITNODE-VMM '), 10);
  view.setUint32(24, 1, true);
  bytes.set(Buffer.from('GDWT'), 28);
  view.setUint32(32, 1, true);
  bytes.set(body, HEADER_BYTES);
  bytes[9] = -acpiChecksum(bytes) & 0xff;
  return bytes;
}

/** Firmware ACPI control structure, with the global lock, which only the guest takes. The structure has no checksum. */
function firmwareControl(): Uint8Array {
  const bytes = new Uint8Array(FACS_BYTES);
  bytes.set(Buffer.from('FACS'));
  new DataView(bytes.buffer).setUint32(4, FACS_BYTES, true);
  bytes[32] = 2;
  return bytes;
}

/** AML: `Name (_S5, Package (4) { SLEEP_TYPE_OFF, 0, 0, 0 })`. */
function sleepObject(): Uint8Array {
  return namedPackage('_S5_', [SLEEP_TYPE_OFF, 0, 0, 0]);
}

/** Fixed ACPI description table. The offsets are those of the table; the header is 36 bytes of them. */
function fixedDescription(facs: number, dsdt: number): Uint8Array {
  const bytes = new Uint8Array(FADT_BYTES - HEADER_BYTES);
  const view = new DataView(bytes.buffer, 0);
  const at = (offset: number): number => offset - HEADER_BYTES;
  const port = (offset: number, address: number, width: number): void => {
    // Generic address: I/O space, bits, offset of the first bit, size of an access (1 byte, 2 words), address.
    bytes.set([1, width * 8, 0, width === 1 ? 1 : 2], at(offset));
    view.setBigUint64(at(offset) + 4, BigInt(address), true);
  };
  view.setUint32(at(36), facs, true);
  view.setUint32(at(40), dsdt, true);
  view.setUint16(at(46), POWER_IRQ, true);
  view.setUint32(at(56), POWER_EVENT_PORT, true);
  view.setUint32(at(64), POWER_CONTROL_PORT, true);
  bytes[at(88)] = POWER_EVENT_BYTES;
  bytes[at(89)] = POWER_CONTROL_BYTES;
  // C2 and C3 take too long to be used.
  view.setUint16(at(96), 0xffff, true);
  view.setUint16(at(98), 0xffff, true);
  view.setUint16(at(109), LEGACY_DEVICES | NO_VGA, true);
  view.setUint32(at(112), FADT_FLAGS, true);
  port(116, KEYBOARD_COMMAND_PORT, 1);
  bytes[at(128)] = KEYBOARD_RESET;
  bytes[at(131)] = 5;
  view.setBigUint64(at(140), BigInt(dsdt), true);
  port(148, POWER_EVENT_PORT, POWER_EVENT_BYTES);
  port(172, POWER_CONTROL_PORT, POWER_CONTROL_BYTES);
  return table('FACP', 6, bytes);
}

/** Multiple APIC description table: local APICs, the IOAPIC, the interrupt of power management, the NMI line of all. */
function interruptControllers(vcpus: number): Uint8Array {
  const processors = Array.from({ length: vcpus }, (_, id) => Uint8Array.of(0, 8, id, id, 1, 0, 0, 0));
  return Buffer.concat([
    words(LOCAL_APIC_ADDRESS, DUAL_8259),
    ...processors,
    Uint8Array.of(1, 12, 0, 0),
    words(IO_APIC_ADDRESS, 0),
    Uint8Array.of(2, 10, 0, POWER_IRQ),
    words(POWER_IRQ),
    Uint8Array.of(HIGH_LEVEL, 0),
    Uint8Array.of(4, 6, 0xff, 0, 0, 1),
  ]);
}

function words(...values: number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

function quads(...values: number[]): Uint8Array {
  return new Uint8Array(BigUint64Array.from(values.map(BigInt)).buffer);
}
