import { GodwitError, type GuestMemory } from '@godwit/core';
import type { KvmVcpu } from '@godwit/linux';
import type { GuestRam } from '../guest/guest-ram.js';
import { PAGE_SIZE } from '../guest/layout.js';
import { enterLongMode, writeIdentityMap } from '../machine/long-mode.js';
import { endOfRam } from '../machine/memory-map.js';
import { ACPI_ADDRESS, ACPI_END, acpiTables } from './acpi-tables.js';
import { type KernelImage, readBzImage, SETUP_HEADER, SetupField } from './kernel-image.js';

/** A Linux to boot, as files and a line. */
export interface LinuxBoot {
  /** A bzImage. */
  readonly kernel: Uint8Array;
  readonly initrd?: Uint8Array;
  /** Default: nothing. */
  readonly commandLine?: string;
}

/**
 * Where the boot loader's part of low memory is, guest-physical. The page tables of `writeIdentityMap` are from 0x2_0000 to 0x6_2000.
 */
const BOOT_PARAMS_ADDRESS = 0x7000;
const GDT_ADDRESS = 0x8000;
const COMMAND_LINE_ADDRESS = 0x9000;
const COMMAND_LINE_MAXIMUM = 0x1_0000;
/** The end of conventional memory, below a BIOS's own data. */
const LOW_MEMORY_END = 0x9_fc00;
const HIGH_MEMORY = 0x10_0000;

/** The boot protocol's selectors, and flat 64-bit code and data segments for them. */
const BOOT_CODE = 0x10;
const BOOT_DATA = 0x18;
const GDT = BigUint64Array.of(0n, 0n, 0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn, 0x008f_8b00_0000_ffffn);
const TASK = 0x20;

/** Fields of the boot parameters outside the setup header: arch/x86/include/uapi/asm/bootparam.h. */
const ACPI_POINTER = 0x070;
const MEMORY_MAP_ENTRIES = 0x1e8;
const MEMORY_MAP = 0x2d0;
const MEMORY_MAP_ENTRY = 20;
/** A boot loader without a number of its own. */
const UNKNOWN_LOADER = 0xff;

/** Types of the memory map (e820). */
const USABLE = 1;
const RESERVED = 2;

/** A piece of the guest's physical memory, as the kernel is told. */
export interface MemoryMapEntry {
  readonly address: number;
  readonly byteLength: number;
  readonly type: typeof USABLE | typeof RESERVED;
}

/**
 * Loads a kernel, its initrd, its boot parameters and the ACPI tables, and sets vCPU 0 to the kernel's 64-bit entry, as
 * Documentation/arch/x86/boot.rst describes it. The other vCPUs wait for the start-up interrupt that the kernel sends them.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT when the kernel cannot be booted, or the memory is too small
 */
export function bootLinux(memory: GuestMemory, ram: GuestRam, vcpus: readonly KvmVcpu[], boot: LinuxBoot): void {
  const kernel = readBzImage(boot.kernel);
  const plan = planBoot(kernel, boot, memory);
  for (const { address, bytes } of kernel.segments) write(ram, address, bytes);
  if (boot.initrd !== undefined) write(ram, plan.initrdAddress, boot.initrd);
  ram.view(COMMAND_LINE_ADDRESS, plan.commandLine.byteLength).set(plan.commandLine);
  const tables = acpiTables(vcpus.length);
  ram.view(tables.address, tables.bytes.byteLength).set(tables.bytes);
  ram.view(BOOT_PARAMS_ADDRESS, PAGE_SIZE).set(plan.bootParams);
  ram.view(GDT_ADDRESS, GDT.byteLength).set(new Uint8Array(GDT.buffer));
  writeIdentityMap(ram, endOfRam(memory));
  enterLongMode(
    vcpus[0] as KvmVcpu,
    { rip: kernel.entry, rsi: BOOT_PARAMS_ADDRESS },
    {
      ...{ address: GDT_ADDRESS, byteLength: GDT.byteLength },
      ...{ code: BOOT_CODE, data: BOOT_DATA, task: TASK },
    },
  );
}

/** What is written to guest memory besides the kernel. */
export interface BootPlan {
  readonly initrdAddress: number;
  /** With the zero that ends it. */
  readonly commandLine: Uint8Array;
  /** One page: the "zero page". */
  readonly bootParams: Uint8Array;
}

/** @throws GodwitError GODWIT_INVALID_ARGUMENT */
export function planBoot(kernel: KernelImage, boot: LinuxBoot, memory: Pick<GuestMemory, 'blocks'>): BootPlan {
  const lowRam = memory.blocks[0]?.byteLength ?? 0;
  const start = Math.min(...kernel.segments.map(({ address }) => address));
  const end = Math.max(...kernel.segments.map(({ address, bytes }) => address + bytes.byteLength));
  const kernelEnd = Math.max(end, start + kernel.neededBytes);
  const initrdBytes = boot.initrd?.byteLength ?? 0;
  const room = Math.floor((Math.min(lowRam, kernel.initrdEnd) - initrdBytes) / PAGE_SIZE) * PAGE_SIZE;
  if (start < HIGH_MEMORY || room < kernelEnd) {
    throw invalid(
      `the kernel takes the memory from ${start} to ${kernelEnd} and the initrd ${initrdBytes} bytes; the guest has ${lowRam} below its hole`,
    );
  }
  const commandLine = Buffer.from(`${boot.commandLine ?? ''}\0`);
  const longest = Math.min(kernel.commandLineBytes, COMMAND_LINE_MAXIMUM - 1);
  if (commandLine.byteLength - 1 > longest || commandLine.indexOf(0) !== commandLine.byteLength - 1) {
    throw invalid(
      `the kernel takes a command line of ${longest} bytes without a zero, got ${commandLine.byteLength - 1}`,
    );
  }
  const initrdAddress = initrdBytes === 0 ? 0 : room;
  return { initrdAddress, commandLine, bootParams: bootParams(kernel, initrdAddress, initrdBytes, memoryMap(memory)) };
}

/** The memory map: RAM, without a BIOS's area, in which the ACPI tables are. */
export function memoryMap({ blocks }: Pick<GuestMemory, 'blocks'>): MemoryMapEntry[] {
  const [low, ...high] = blocks;
  return [
    { address: 0, byteLength: LOW_MEMORY_END, type: USABLE },
    { address: ACPI_ADDRESS, byteLength: ACPI_END - ACPI_ADDRESS, type: RESERVED },
    { address: HIGH_MEMORY, byteLength: (low?.byteLength ?? 0) - HIGH_MEMORY, type: USABLE },
    ...high.map(({ guestPhysicalAddress: address, byteLength }) => ({ address, byteLength, type: USABLE }) as const),
  ];
}

function bootParams(
  kernel: KernelImage,
  initrdAddress: number,
  initrdBytes: number,
  map: readonly MemoryMapEntry[],
): Uint8Array {
  const bytes = new Uint8Array(PAGE_SIZE);
  const view = new DataView(bytes.buffer);
  bytes.set(kernel.setupHeader, SETUP_HEADER);
  bytes[SetupField.loaderType] = UNKNOWN_LOADER;
  view.setUint32(SetupField.initrdAddress, initrdAddress, true);
  view.setUint32(SetupField.initrdBytes, initrdBytes, true);
  view.setUint32(SetupField.commandLineAddress, COMMAND_LINE_ADDRESS, true);
  view.setBigUint64(ACPI_POINTER, BigInt(ACPI_ADDRESS), true);
  bytes[MEMORY_MAP_ENTRIES] = map.length;
  map.forEach(({ address, byteLength, type }, i) => {
    const at = MEMORY_MAP + i * MEMORY_MAP_ENTRY;
    view.setBigUint64(at, BigInt(address), true);
    view.setBigUint64(at + 8, BigInt(byteLength), true);
    view.setUint32(at + 16, type, true);
  });
  return bytes;
}

/** Writes bytes that may cross the border of a window of RAM. */
function write(ram: GuestRam, address: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.byteLength; at += HIGH_MEMORY) {
    const part = bytes.subarray(at, at + HIGH_MEMORY);
    const first = Math.min(part.byteLength, HIGH_MEMORY - ((address + at) % HIGH_MEMORY));
    ram.view(address + at, first).set(part.subarray(0, first));
    if (first < part.byteLength) ram.view(address + at + first, part.byteLength - first).set(part.subarray(first));
  }
}

function invalid(message: string): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', message);
}
