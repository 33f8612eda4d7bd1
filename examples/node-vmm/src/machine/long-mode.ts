import type { KvmVcpu } from '@godwit/linux';
import { type GeneralRegister, GeneralRegisters } from '@godwit/linux/kvm';
import type { GuestRam } from '../guest/guest-ram.js';
import { PAGE_SIZE, PAGE_TABLES_ADDRESS, PAGE_TABLES_PAGES } from '../guest/layout.js';

const GIB = 2 ** 30;
const LARGE_PAGE = 2 ** 21;
const ENTRIES = 512;

/** Page table entry bits: Intel SDM volume 3A, 4.5 (tables 4-15 to 4-18). */
const PRESENT = 0x01;
const WRITABLE = 0x02;
/**
 * Set from the start, so that the processor never writes a page table: only the guest's own writes change its memory.
 */
const ACCESSED = 0x20;
const DIRTY = 0x40;
const LARGE = 0x80;

/** Control registers: Intel SDM volume 3A, 2.5. Protection, monitor coprocessor, extension type, numeric error, paging. */
const CR0 = 0x8000_0033;
/** Physical address extension, which long mode requires. */
const CR4 = 0x20;
/** Long mode enable and active: volume 3A, 2.2.1. */
const EFER = 0x500;
/** Bit 1 of RFLAGS is always set. Interrupts are off. */
const RFLAGS = 0x2;

/** Segment types: volume 3A, 3.4.5.1 and 3.5. */
const CODE = 11;
const DATA = 3;
const BUSY_TSS = 11;

/**
 * Writes page tables that map every guest-physical address to itself by pages of 2 MiB: one level-4 table, one
 * directory-pointer table, one directory per GiB, the hole included.
 */
export function writeIdentityMap(ram: GuestRam, endOfRam: number): void {
  const directories = Math.ceil(endOfRam / GIB);
  if (2 + directories > PAGE_TABLES_PAGES) throw new RangeError(`no page tables for ${directories} GiB`);
  const bytes = ram.view(PAGE_TABLES_ADDRESS, PAGE_TABLES_PAGES * PAGE_SIZE);
  const tables = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const table = PRESENT | WRITABLE | ACCESSED;
  const setEntry = (page: number, index: number, address: number, flags: number): void => {
    // Flags are below the lowest bit of an address.
    tables.setBigUint64(page * PAGE_SIZE + index * 8, BigInt(address) | BigInt(flags), true);
  };
  setEntry(0, 0, PAGE_TABLES_ADDRESS + PAGE_SIZE, table);
  for (let directory = 0; directory < directories; directory++) {
    setEntry(1, directory, PAGE_TABLES_ADDRESS + (2 + directory) * PAGE_SIZE, table);
    for (let i = 0; i < ENTRIES; i++) {
      setEntry(2 + directory, i, directory * GIB + i * LARGE_PAGE, table | DIRTY | LARGE);
    }
  }
}

/** A descriptor table in guest memory, and which of its segments are used. */
export interface DescriptorTable {
  readonly address: number;
  readonly byteLength: number;
  /** Selectors. */
  readonly code: number;
  readonly data: number;
  readonly task: number;
}

/** A guest that loads no segment needs no table. */
const NO_TABLE: DescriptorTable = { address: 0, byteLength: 0, code: 0x08, data: 0x10, task: 0x18 };

/**
 * Sets a vCPU directly to 64-bit mode, as a boot loader does. There is no interrupt table: an exception becomes a triple fault, which
 * the machine reports as a crash.
 */
export function enterLongMode(
  vcpu: KvmVcpu,
  registers: Readonly<Partial<Record<GeneralRegister, number>>>,
  table: DescriptorTable = NO_TABLE,
): void {
  const special = vcpu.specialRegisters();
  special.set('cr0', CR0);
  special.set('cr3', PAGE_TABLES_ADDRESS);
  special.set('cr4', CR4);
  special.set('efer', EFER);
  const flat = { base: 0, limit: 0xffff_ffff, present: 1, dpl: 0, s: 1, g: 1, avl: 0, unusable: 0 };
  special.setSegment('cs', { ...flat, selector: table.code, type: CODE, db: 0, l: 1 });
  for (const segment of ['ds', 'es', 'fs', 'gs', 'ss'] as const) {
    special.setSegment(segment, { ...flat, selector: table.data, type: DATA, db: 1, l: 0 });
  }
  special.setSegment('tr', {
    base: 0,
    limit: 0x67,
    selector: table.task,
    type: BUSY_TSS,
    present: 1,
    s: 0,
    g: 0,
    unusable: 0,
  });
  if (table !== NO_TABLE) special.setTable('gdt', table.address, table.byteLength - 1);
  vcpu.setSpecialRegisters(special);
  const general = new GeneralRegisters();
  general.set('rflags', RFLAGS);
  for (const [register, value] of Object.entries(registers)) general.set(register as GeneralRegister, value);
  vcpu.setGeneralRegisters(general);
  vcpu.makeRunnable();
}
