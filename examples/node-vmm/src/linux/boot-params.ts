import { PAGE_SIZE } from '../guest/layout.js';
import { ACPI_ADDRESS } from './acpi-tables.js';
import { BootAddress, type BootPlan } from './boot-plan.js';
import { SETUP_HEADER, SetupField } from './bz-image.js';

/** Fields of the boot parameters outside the setup header: arch/x86/include/uapi/asm/bootparam.h. */
const ACPI_POINTER = 0x070;
const MEMORY_MAP_ENTRIES = 0x1e8;
const MEMORY_MAP = 0x2d0;
const MEMORY_MAP_ENTRY = 20;
/** A boot loader without a number of its own. */
const UNKNOWN_LOADER = 0xff;

/** The boot parameters of a bzImage, its "zero page": one page, to be at `BootAddress.params`. */
export function bootParams(setupHeader: Uint8Array, plan: BootPlan): Uint8Array {
  const bytes = new Uint8Array(PAGE_SIZE);
  const view = new DataView(bytes.buffer);
  bytes.set(setupHeader, SETUP_HEADER);
  bytes[SetupField.loaderType] = UNKNOWN_LOADER;
  view.setUint32(SetupField.initrdAddress, plan.initrdAddress, true);
  view.setUint32(SetupField.initrdBytes, plan.initrdBytes, true);
  view.setUint32(SetupField.commandLineAddress, BootAddress.commandLine, true);
  view.setBigUint64(ACPI_POINTER, BigInt(ACPI_ADDRESS), true);
  bytes[MEMORY_MAP_ENTRIES] = plan.memoryMap.length;
  plan.memoryMap.forEach(({ address, byteLength, type }, i) => {
    const at = MEMORY_MAP + i * MEMORY_MAP_ENTRY;
    view.setBigUint64(at, BigInt(address), true);
    view.setBigUint64(at + 8, BigInt(byteLength), true);
    view.setUint32(at + 16, type, true);
  });
  return bytes;
}
