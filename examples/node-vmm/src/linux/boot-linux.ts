import type { GuestMemory } from '@godwit/core';
import type { KvmVcpu } from '@godwit/linux';
import { GeneralRegisters } from '@godwit/linux/kvm';
import type { GuestRam } from '../guest/guest-ram.js';
import { enterLongMode, writeIdentityMap } from '../machine/long-mode.js';
import { endOfRam } from '../machine/memory-map.js';
import { acpiTables } from './acpi-tables.js';
import { bootParams } from './boot-params.js';
import { BootAddress, type LinuxBoot, planBoot } from './boot-plan.js';
import { readKernel } from './read-kernel.js';
import { startInfo } from './start-info.js';

/** The 64-bit boot protocol's selectors, and flat 64-bit code and data segments and a task segment for them. */
const BOOT_CODE = 0x10;
const BOOT_DATA = 0x18;
const TASK = 0x20;
const GDT = BigUint64Array.of(0n, 0n, 0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn, 0x008f_8b00_0000_ffffn);

/** Segment types: Intel SDM volume 3A, 3.4.5.1 and 3.5. */
const CODE = 11;
const DATA = 3;
const BUSY_TSS = 11;
/** CR0: protection on, and the bit that is always set; no paging. */
const PROTECTED = 0x11;
/** Bit 1 of RFLAGS is always set. Interrupts are off. */
const RFLAGS = 0x2;
/** Bytes that are written at a time; a window of guest memory is a multiple of it. */
const WRITE_BYTES = 2 ** 20;

/**
 * Loads a kernel, its initrd, its boot parameters and the ACPI tables, and sets vCPU 0 to the kernel's entry: the 64-bit entry of a bzImage
 * (Documentation/arch/x86/boot.rst), or the PVH entry of a vmlinux (xen/docs/misc/pvh.pandoc). The other vCPUs wait for the start-up
 * interrupt that the kernel sends them.
 *
 * @param virtioDevices number of virtio devices, which the ACPI tables name
 * @throws GodwitError GODWIT_INVALID_ARGUMENT when the kernel cannot be booted, or the memory is too small
 */
export function bootLinux(
  memory: GuestMemory,
  ram: GuestRam,
  vcpus: readonly KvmVcpu[],
  boot: LinuxBoot,
  virtioDevices = 0,
): void {
  const kernel = readKernel(boot.kernel);
  const plan = planBoot(kernel, boot, memory);
  for (const { address, bytes } of kernel.segments) write(ram, address, bytes);
  if (boot.initrd !== undefined) write(ram, plan.initrdAddress, boot.initrd);
  write(ram, BootAddress.commandLine, plan.commandLine);
  const tables = acpiTables(vcpus.length, virtioDevices);
  write(ram, tables.address, tables.bytes);
  const first = vcpus[0] as KvmVcpu;
  if (kernel.setupHeader === undefined) {
    write(ram, BootAddress.params, startInfo(plan));
    enterProtectedMode(first, kernel.entry);
    return;
  }
  write(ram, BootAddress.params, bootParams(kernel.setupHeader, plan));
  write(ram, BootAddress.descriptors, new Uint8Array(GDT.buffer));
  writeIdentityMap(ram, endOfRam(memory));
  const table = { address: BootAddress.descriptors, byteLength: GDT.byteLength };
  enterLongMode(
    first,
    { rip: kernel.entry, rsi: BootAddress.params },
    { ...table, code: BOOT_CODE, data: BOOT_DATA, task: TASK },
  );
}

/** Flat 32-bit mode without paging, EBX the address of the start information. */
function enterProtectedMode(vcpu: KvmVcpu, entry: number): void {
  const special = vcpu.specialRegisters();
  special.set('cr0', PROTECTED);
  special.set('cr4', 0);
  const flat = { base: 0, limit: 0xffff_ffff, present: 1, dpl: 0, s: 1, db: 1, l: 0, g: 1, avl: 0, unusable: 0 };
  special.setSegment('cs', { ...flat, selector: BOOT_CODE, type: CODE });
  for (const segment of ['ds', 'es', 'fs', 'gs', 'ss'] as const) {
    special.setSegment(segment, { ...flat, selector: BOOT_DATA, type: DATA });
  }
  const task = { base: 0, limit: 0x67, selector: TASK, type: BUSY_TSS, present: 1, s: 0, g: 0, unusable: 0 };
  special.setSegment('tr', task);
  vcpu.setSpecialRegisters(special);
  const general = new GeneralRegisters();
  general.set('rflags', RFLAGS);
  general.set('rip', entry);
  general.set('rbx', BootAddress.params);
  vcpu.setGeneralRegisters(general);
  vcpu.makeRunnable();
}

/** Writes bytes that may cross the border of a window of RAM. */
function write(ram: GuestRam, address: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.byteLength; ) {
    const length = Math.min(bytes.byteLength - at, WRITE_BYTES - ((address + at) % WRITE_BYTES));
    ram.view(address + at, length).set(bytes.subarray(at, at + length));
    at += length;
  }
}
