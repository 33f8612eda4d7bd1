import { GodwitError } from '@godwit/core';
import type { KernelImage } from './kernel-image.js';

/** Where the setup header is, in the file and in the boot parameters: Documentation/arch/x86/boot.rst. */
export const SETUP_HEADER = 0x1f1;

/** Fields of the header, by their offset in the file. */
export const SetupField = {
  setupSectors: 0x1f1,
  bootFlag: 0x1fe,
  jump: 0x200,
  magic: 0x202,
  version: 0x206,
  loaderType: 0x210,
  loadFlags: 0x211,
  initrdAddress: 0x218,
  initrdBytes: 0x21c,
  commandLineAddress: 0x228,
  initrdAddressMaximum: 0x22c,
  extendedLoadFlags: 0x236,
  commandLineBytes: 0x238,
  preferredAddress: 0x258,
  initBytes: 0x260,
} as const;

/** `HdrS` */
const MAGIC = 0x5372_6448;
/** The oldest version of the boot protocol that is accepted (Linux 3.8): the header says whether there is a 64-bit entry. */
const OLDEST = 0x020c;
const SECTOR = 512;
/** Sectors of the setup code when the field is 0. */
const OLD_SETUP_SECTORS = 4;
/** Extended load flags: there is a 64-bit entry, 0x200 bytes after the start. */
const HAS_64_BIT_ENTRY = 1;
const ENTRY_64 = 0x200;

/**
 * Reads a bzImage, the compressed kernel of every distribution.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT when it is none, or too old for the 64-bit boot protocol
 */
export function readBzImage(file: Uint8Array): KernelImage {
  if (file.byteLength < SetupField.initBytes + 4) throw refused(`it has only ${file.byteLength} bytes`);
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const magic = view.getUint32(SetupField.magic, true);
  if (magic !== MAGIC) throw refused('its setup header does not say "HdrS"');
  const version = view.getUint16(SetupField.version, true);
  if (version < OLDEST) {
    throw refused(`its boot protocol is 0x${version.toString(16)}, and 0x${OLDEST.toString(16)} (Linux 3.8) is needed`);
  }
  if ((view.getUint16(SetupField.extendedLoadFlags, true) & HAS_64_BIT_ENTRY) === 0) {
    throw refused('it has no 64-bit entry: a kernel for x86-64 is needed');
  }
  const sectors = view.getUint8(SetupField.setupSectors) || OLD_SETUP_SECTORS;
  const setupBytes = (sectors + 1) * SECTOR;
  if (file.byteLength <= setupBytes) throw refused(`it ends in its setup code: ${file.byteLength} bytes`);
  const address = Number(view.getBigUint64(SetupField.preferredAddress, true));
  // The header ends where the jump over it leads.
  const headerEnd = SetupField.magic + view.getUint8(SetupField.jump + 1);
  return {
    segments: [{ address, bytes: file.subarray(setupBytes) }],
    entry: address + ENTRY_64,
    neededBytes: view.getUint32(SetupField.initBytes, true),
    setupHeader: file.slice(SETUP_HEADER, headerEnd),
    commandLineBytes: view.getUint32(SetupField.commandLineBytes, true),
    initrdEnd: view.getUint32(SetupField.initrdAddressMaximum, true) + 1,
  };
}

function refused(why: string): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', `the kernel is no bzImage that can be booted: ${why}`);
}
