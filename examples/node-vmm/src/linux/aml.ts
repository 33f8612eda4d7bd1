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
const EXTENDED = 0x5b;
const DEVICE = 0x82;

/** Resource descriptors (6.4): fixed memory that is read and written; an interrupt that is used; the end, with a checksum of 0. */
const FIXED_MEMORY = 0x86;
const READ_WRITE = 1;
const EXTENDED_INTERRUPT = 0x89;
/** Consumed, triggered by level, active high, not shared. */
const LEVEL_HIGH = 0x01;
const END_TAG = [0x79, 0x00];

/** The name by which an operating system finds its driver of virtio over MMIO. */
const VIRTIO_ID = 'LNRO0005';

/** `Name (NAME, Package () { ... })` of numbers below 256. */
export function namedPackage(name: string, values: readonly number[]): Uint8Array {
  const elements = values.flatMap((value) => (value > 1 ? [BYTE, value] : [value === 0 ? ZERO : ONE]));
  return Uint8Array.of(NAME, ...nameSegment(name), PACKAGE, ...withPackageLength([values.length, ...elements]));
}

/**
 * A scope with a device for each slot of virtio, from the first on: its id, its number, its registers and its interrupt. Nothing for no
 * device.
 */
export function virtioScope(devices: number): Uint8Array {
  if (devices === 0) return new Uint8Array(0);
  const all = Array.from({ length: devices }, (_, slot) => virtioDevice(slot));
  return Uint8Array.of(SCOPE, ...withPackageLength([0x5c, ...nameSegment('_SB_'), ...all.flat()]));
}

function virtioDevice(slot: number): number[] {
  const resources = [
    ...[FIXED_MEMORY, 9, 0, READ_WRITE, ...dword(slotAddress(slot)), ...dword(VIRTIO_SLOT_BYTES)],
    ...[EXTENDED_INTERRUPT, 6, 0, LEVEL_HIGH, 1, ...dword(slotIrq(slot))],
    ...END_TAG,
  ];
  const body = [
    ...nameSegment(`VIO${slot}`),
    ...[NAME, ...nameSegment('_HID'), STRING, ...Buffer.from(`${VIRTIO_ID}\0`)],
    ...[NAME, ...nameSegment('_UID'), DWORD, ...dword(slot)],
    ...[NAME, ...nameSegment('_CRS'), BUFFER, ...withPackageLength([BYTE, resources.length, ...resources])],
  ];
  return [EXTENDED, DEVICE, ...withPackageLength(body)];
}

function nameSegment(name: string): readonly number[] {
  if (!/^[A-Z_][A-Z0-9_]{3}$/.test(name)) throw new RangeError(`a name of ACPI has four characters, got "${name}"`);
  return [...Buffer.from(name, 'latin1')];
}

function dword(value: number): number[] {
  return [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
}

/** Bytes behind a PkgLength (20.2.4), which counts itself: up to 63 in one byte, up to 4095 in two. */
function withPackageLength(bytes: readonly number[]): number[] {
  const short = bytes.length + 1;
  if (short < 0x40) return [short, ...bytes];
  const long = bytes.length + 2;
  if (long > 0xfff) throw new RangeError(`${bytes.length} bytes of AML in one object`);
  return [0x40 | (long & 0xf), long >>> 4, ...bytes];
}
