/**
 * The boot-parameter block at PARAMS_ADDRESS, little-endian. Mirrors guest/constants.S.
 *
 * | offset | type | field |
 * |---|---|---|
 * | 0 | u8[8] | "GODWITG1" |
 * | 8 | u32 | version, 1 |
 * | 12 | u32 | vCPUs, 1..8 |
 * | 16 | u32 | flags: 1 random order, 2 whole pages, 4 console by PORT_LINE |
 * | 20 | u32 | pages per second and vCPU, 0 = as fast as possible; the guest reads it again for every batch |
 * | 24 | u32 | heartbeat period, microseconds; the guest reads it again for every heartbeat |
 * | 28 | u32 | number of ranges, 0..8 |
 * | 32 | u32 | seed of the random order |
 * | 64 | 8 x { u64, u64 } | ranges: guest-physical address, pages |
 * | 192 | 8 x u64 | per vCPU: address of its table of expected generations |
 *
 * The VMM may change the rate or the period of a running guest by writing the field, if it marks the page dirty.
 */
import { MAXIMUM_VCPUS, PAGE_SIZE } from './layout.js';

/** A run of whole pages of the working set. */
export interface PageRange {
  readonly guestPhysicalAddress: number;
  readonly pages: number;
}

export interface BootParams {
  /** 1..8 */
  readonly vcpus: number;
  readonly order: 'sequential' | 'random';
  /** Write (and check) every byte of a page, or only its six stamps. */
  readonly wholePages: boolean;
  /** 'serial': a byte an exit, through the 16550. 'line': a line an exit, through PORT_LINE. */
  readonly console: 'serial' | 'line';
  /** Per vCPU; 0 = as fast as possible. */
  readonly pagesPerSecond: number;
  /** Microseconds from one heartbeat line to the next. */
  readonly heartbeatMicroseconds: number;
  readonly seed: number;
  /** The working set: at most 8 ranges that do not overlap. Empty: an idle guest that only prints heartbeats. */
  readonly ranges: readonly PageRange[];
  /** Address of each vCPU's table of expected generations, page-aligned; see placeWorkingSet. Zeroed RAM. */
  readonly tables: readonly number[];
}

export const BOOT_PARAMS_BYTES = 256;
export const BOOT_PARAMS_VERSION = 1;
export const DEFAULT_HEARTBEAT_MICROSECONDS = 20_000;

/** Byte offsets of the fields that a VMM may change while the guest runs. */
export const BOOT_PARAMS_RATE_OFFSET = 20;
export const BOOT_PARAMS_HEARTBEAT_OFFSET = 24;

const MAGIC = 0x3147_5449_5744_4f47n;
const FLAG_RANDOM = 1;
const FLAG_WHOLE_PAGES = 2;
const FLAG_LINE_PORT = 4;
const MAXIMUM_RANGES = 8;
const RANGES_OFFSET = 64;
const TABLES_OFFSET = 192;

/** @throws RangeError when a field is out of range. */
export function encodeBootParams(params: BootParams): Uint8Array {
  if (!Number.isInteger(params.vcpus) || params.vcpus < 1 || params.vcpus > MAXIMUM_VCPUS) {
    throw new RangeError(`1..${MAXIMUM_VCPUS} vCPUs, not ${params.vcpus}`);
  }
  if (params.ranges.length > MAXIMUM_RANGES) throw new RangeError(`at most 8 ranges, not ${params.ranges.length}`);
  if (params.tables.length !== params.vcpus) {
    throw new RangeError(`${params.vcpus} vCPUs need as many generation tables, not ${params.tables.length}`);
  }
  for (const address of [...params.tables, ...params.ranges.map((range) => range.guestPhysicalAddress)]) {
    if (!Number.isSafeInteger(address) || address < 0 || address % PAGE_SIZE !== 0) {
      throw new RangeError(`not the address of a page: ${address}`);
    }
  }
  const bytes = new Uint8Array(BOOT_PARAMS_BYTES);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, MAGIC, true);
  view.setUint32(8, BOOT_PARAMS_VERSION, true);
  view.setUint32(12, params.vcpus, true);
  const flags =
    (params.order === 'random' ? FLAG_RANDOM : 0) |
    (params.wholePages ? FLAG_WHOLE_PAGES : 0) |
    (params.console === 'line' ? FLAG_LINE_PORT : 0);
  view.setUint32(16, flags, true);
  view.setUint32(BOOT_PARAMS_RATE_OFFSET, u32(params.pagesPerSecond, 'pagesPerSecond'), true);
  view.setUint32(BOOT_PARAMS_HEARTBEAT_OFFSET, u32(params.heartbeatMicroseconds, 'heartbeatMicroseconds'), true);
  view.setUint32(28, params.ranges.length, true);
  view.setUint32(32, u32(params.seed, 'seed'), true);
  params.ranges.forEach((range, index) => {
    if (!Number.isSafeInteger(range.pages) || range.pages < 1) throw new RangeError(`a range of ${range.pages} pages`);
    view.setBigUint64(RANGES_OFFSET + index * 16, BigInt(range.guestPhysicalAddress), true);
    view.setBigUint64(RANGES_OFFSET + index * 16 + 8, BigInt(range.pages), true);
  });
  params.tables.forEach((address, vcpu) => {
    view.setBigUint64(TABLES_OFFSET + vcpu * 8, BigInt(address), true);
  });
  return bytes;
}

/** @throws RangeError when the block is not one, or of another version. */
export function decodeBootParams(bytes: Uint8Array): BootParams {
  if (bytes.byteLength < BOOT_PARAMS_BYTES)
    throw new RangeError(`a boot-parameter block has ${BOOT_PARAMS_BYTES} bytes`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getBigUint64(0, true) !== MAGIC) throw new RangeError('no boot-parameter block: wrong magic');
  const version = view.getUint32(8, true);
  if (version !== BOOT_PARAMS_VERSION)
    throw new RangeError(`boot parameters of version ${version}, not ${BOOT_PARAMS_VERSION}`);
  const vcpus = view.getUint32(12, true);
  const rangeCount = view.getUint32(28, true);
  if (vcpus < 1 || vcpus > MAXIMUM_VCPUS || rangeCount > MAXIMUM_RANGES) {
    throw new RangeError(`boot parameters with ${vcpus} vCPUs and ${rangeCount} ranges`);
  }
  const flags = view.getUint32(16, true);
  return {
    vcpus,
    order: (flags & FLAG_RANDOM) !== 0 ? 'random' : 'sequential',
    wholePages: (flags & FLAG_WHOLE_PAGES) !== 0,
    console: (flags & FLAG_LINE_PORT) !== 0 ? 'line' : 'serial',
    pagesPerSecond: view.getUint32(BOOT_PARAMS_RATE_OFFSET, true),
    heartbeatMicroseconds: view.getUint32(BOOT_PARAMS_HEARTBEAT_OFFSET, true),
    seed: view.getUint32(32, true),
    ranges: Array.from({ length: rangeCount }, (_, index) => ({
      guestPhysicalAddress: Number(view.getBigUint64(RANGES_OFFSET + index * 16, true)),
      pages: Number(view.getBigUint64(RANGES_OFFSET + index * 16 + 8, true)),
    })),
    tables: Array.from({ length: vcpus }, (_, vcpu) => Number(view.getBigUint64(TABLES_OFFSET + vcpu * 8, true))),
  };
}

function u32(value: number, name: string): number {
  if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff)
    throw new RangeError(`${name}: not a u32: ${value}`);
  return value;
}
