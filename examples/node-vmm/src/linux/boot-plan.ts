import { GodwitError, type GuestMemory } from '@godwit/core';
import { PAGE_SIZE } from '../guest/layout.js';
import { ACPI_ADDRESS, ACPI_END } from './acpi-tables.js';
import type { KernelImage } from './kernel-image.js';

/** The files and the command line of a Linux that is to be booted. */
export interface LinuxBoot {
  /** A bzImage, or a vmlinux with an entry for PVH. */
  readonly kernel: Uint8Array;
  readonly initrd?: Uint8Array;
  /** Default: nothing. */
  readonly commandLine?: string;
}

/**
 * Where the boot loader's part of low memory is, guest-physical. The page tables of `writeIdentityMap` are from 0x2_0000 to 0x6_2000.
 */
export const BootAddress = { params: 0x7000, descriptors: 0x8000, commandLine: 0x9000 } as const;
const COMMAND_LINE_ROOM = 0x1_0000;
/** The end of conventional memory, below a BIOS's own data. */
const LOW_MEMORY_END = 0x9_fc00;
const HIGH_MEMORY = 0x10_0000;

/** Types of the memory map (e820). */
export const MemoryType = { usable: 1, reserved: 2 } as const;

/** An entry of the memory map that the kernel gets: a range of guest-physical memory, and its use. */
export interface MemoryMapEntry {
  readonly address: number;
  readonly byteLength: number;
  readonly type: (typeof MemoryType)[keyof typeof MemoryType];
}

/** The values that a boot loader gives the kernel. */
export interface BootPlan {
  /** Guest-physical; 0 without an initrd. */
  readonly initrdAddress: number;
  readonly initrdBytes: number;
  /** With the terminating zero. */
  readonly commandLine: Uint8Array;
  readonly memoryMap: readonly MemoryMapEntry[];
}

/**
 * Places the kernel at the addresses that its file asks for, and the initrd at the end of the memory below the hole.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT when there is no room, or the command line is too long
 */
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
  const longest = Math.min(kernel.commandLineBytes, COMMAND_LINE_ROOM - 1);
  if (commandLine.byteLength - 1 > longest || commandLine.indexOf(0) !== commandLine.byteLength - 1) {
    throw invalid(
      `the kernel takes a command line of ${longest} bytes without a zero, got ${commandLine.byteLength - 1}`,
    );
  }
  return { initrdAddress: initrdBytes === 0 ? 0 : room, initrdBytes, commandLine, memoryMap: memoryMap(memory) };
}

/** The memory map: RAM, without a BIOS's area, in which the ACPI tables are. */
export function memoryMap({ blocks }: Pick<GuestMemory, 'blocks'>): MemoryMapEntry[] {
  const [low, ...high] = blocks;
  const { usable, reserved } = MemoryType;
  return [
    { address: 0, byteLength: LOW_MEMORY_END, type: usable },
    { address: ACPI_ADDRESS, byteLength: ACPI_END - ACPI_ADDRESS, type: reserved },
    { address: HIGH_MEMORY, byteLength: (low?.byteLength ?? 0) - HIGH_MEMORY, type: usable },
    ...high.map(({ guestPhysicalAddress: address, byteLength }) => ({ address, byteLength, type: usable })),
  ];
}

function invalid(message: string): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', message);
}
