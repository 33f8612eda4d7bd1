import { PAGE_SIZE } from '../guest/layout.js';
import { ACPI_ADDRESS } from './acpi-tables.js';
import { BootAddress, type BootPlan } from './boot-plan.js';

/** `struct hvm_start_info`, version 1, and the lists behind it: xen/include/public/arch-x86/hvm/start_info.h. */
const MAGIC = 0x336e_c578;
const VERSION = 1;
const MODULES = 64;
const MEMORY_MAP = 128;
const MEMORY_MAP_ENTRY = 24;

/** The start information of a PVH kernel: one page, to be loaded at `BootAddress.params`. At the entry, EBX has its address. */
export function startInfo(plan: BootPlan): Uint8Array {
  const bytes = new Uint8Array(PAGE_SIZE);
  const view = new DataView(bytes.buffer);
  const address = (at: number, value: number): void => view.setBigUint64(at, BigInt(value), true);
  const hasInitrd = plan.initrdBytes > 0;
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, VERSION, true);
  view.setUint32(12, hasInitrd ? 1 : 0, true);
  address(16, hasInitrd ? BootAddress.params + MODULES : 0);
  address(24, BootAddress.commandLine);
  address(32, ACPI_ADDRESS);
  address(40, BootAddress.params + MEMORY_MAP);
  view.setUint32(48, plan.memoryMap.length, true);
  address(MODULES, plan.initrdAddress);
  address(MODULES + 8, plan.initrdBytes);
  plan.memoryMap.forEach((entry, i) => {
    const at = MEMORY_MAP + i * MEMORY_MAP_ENTRY;
    address(at, entry.address);
    address(at + 8, entry.byteLength);
    view.setUint32(at + 16, entry.type, true);
  });
  return bytes;
}
