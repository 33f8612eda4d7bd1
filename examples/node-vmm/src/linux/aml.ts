import { slotAddress, slotIrq, VIRTIO_SLOT_BYTES } from '../virtio/mmio-slots.js';

/** Encodings of the ACPI machine language: ACPI 6.5, 20.2. */
const ZERO = 0x00;
const ONE = 0x01;
const NAME = 0x08;
const BYTE = 0x0a;
const DWORD = 0x0c;
const STRING = 0x0d;
const SCOPE = 0x10;
const BUFFER = 0x11;
const PACKAGE = 0x12;
const METHOD = 0x14;
const ARGUMENT_0 = 0x68;
const NOTIFY = 0x86;
const EQUAL = 0x93;
const IF = 0xa0;
const EXTENDED = 0x5b;
const DEVICE = 0x82;
/** A method's flags: one call at a time; bits 0 to 2 are the number of its arguments. */
const SERIALIZED = 0x08;

/** Resource descriptors (6.4): fixed memory that is read and written; an interrupt that is used; the end, with a checksum of 0. */
const FIXED_MEMORY = 0x86;
const READ_WRITE = 1;
const EXTENDED_INTERRUPT = 0x89;
const END_TAG = [0x79, 0x00];
/** Interrupts that are consumed and not shared: triggered by a high level, or by a rising edge. */
const LEVEL_HIGH = 0x01;
export const EDGE_HIGH = 0x03;

/** The name by which an operating system finds its driver of virtio over MMIO. */
const VIRTIO_ID = 'LNRO0005';

/** Bytes of AML. */
export type Aml = readonly number[];

/** `Name (NAME, Package () { ... })` of numbers below 256. */
export function namedPackage(name: string, values: readonly number[]): Uint8Array {
  return Uint8Array.from(named(name, numbers(values, 'package')));
}

/**
 * A scope with a device for each slot of virtio, from the first on: its id, its number, its registers and its interrupt. Nothing for no
 * device.
 */
export function virtioScope(devices: number): Uint8Array {
  if (devices === 0) return new Uint8Array(0);
  return scope(
    '_SB_',
    Array.from({ length: devices }, (_, slot) => virtioDevice(slot)),
  );
}

function virtioDevice(slot: number): Aml {
  return device(`VIO${slot}`, [
    namedString('_HID', VIRTIO_ID),
    [NAME, ...nameSegment('_UID'), DWORD, ...dword(slot)],
    namedBuffer('_CRS', [
      [FIXED_MEMORY, 9, 0, READ_WRITE, ...dword(slotAddress(slot)), ...dword(VIRTIO_SLOT_BYTES)],
      interruptResource(slotIrq(slot), LEVEL_HIGH),
    ]),
  ]);
}

/** `Scope (\NAME) { ... }` */
export function scope(name: string, contents: readonly Aml[]): Uint8Array {
  return Uint8Array.of(SCOPE, ...withPackageLength([0x5c, ...nameSegment(name), ...contents.flat()]));
}

/** `Device (NAME) { ... }` */
export function device(name: string, contents: readonly Aml[]): Aml {
  return [EXTENDED, DEVICE, ...withPackageLength([...nameSegment(name), ...contents.flat()])];
}

/** `Name (NAME, value)` */
export function named(name: string, value: Aml): Aml {
  return [NAME, ...nameSegment(name), ...value];
}

/** `Name (NAME, "text")` */
export function namedString(name: string, text: string): Aml {
  return named(name, [STRING, ...Buffer.from(`${text}\0`, 'latin1')]);
}

/** `Name (NAME, Buffer () { resources, and the end })` */
export function namedBuffer(name: string, resources: readonly Aml[]): Aml {
  const bytes = [...resources.flat(), ...END_TAG];
  return named(name, [BUFFER, ...withPackageLength([BYTE, bytes.length, ...bytes])]);
}

/** A number, or a package of numbers. */
export function numbers(values: readonly number[], as?: 'package'): Aml {
  const elements = values.flatMap(number);
  return as === undefined ? elements : [PACKAGE, ...withPackageLength([values.length, ...elements])];
}

/** `Method (NAME, arguments, Serialized) { ... }` */
export function method(name: string, argumentCount: number, contents: readonly Aml[]): Aml {
  return [METHOD, ...withPackageLength([...nameSegment(name), SERIALIZED | argumentCount, ...contents.flat()])];
}

/** `If (Arg0 == value) { Notify (TARGET, code) }` */
export function notifyIfArgument(value: number, target: string, code: number): Aml {
  const notify = [NOTIFY, ...nameSegment(target), ...number(code)];
  return [IF, ...withPackageLength([EQUAL, ARGUMENT_0, ...number(value), ...notify])];
}

/** One interrupt of the IOAPIC, in a device's resources. */
export function interruptResource(irq: number, flags: number): Aml {
  return [EXTENDED_INTERRUPT, 6, 0, flags, 1, ...dword(irq)];
}

function number(value: number): Aml {
  if (value > 0xff) return [DWORD, ...dword(value)];
  return value > 1 ? [BYTE, value] : [value === 0 ? ZERO : ONE];
}

function nameSegment(name: string): Aml {
  if (!/^[A-Z_][A-Z0-9_]{3}$/.test(name)) throw new RangeError(`a name of ACPI has four characters, got "${name}"`);
  return [...Buffer.from(name, 'latin1')];
}

function dword(value: number): Aml {
  return [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
}

/** Bytes behind a PkgLength (20.2.4), which counts itself: up to 63 in one byte, up to 4095 in two. */
function withPackageLength(bytes: Aml): Aml {
  const short = bytes.length + 1;
  if (short < 0x40) return [short, ...bytes];
  const long = bytes.length + 2;
  if (long > 0xfff) throw new RangeError(`${bytes.length} bytes of AML in one object`);
  return [0x40 | (long & 0xf), long >>> 4, ...bytes];
}
