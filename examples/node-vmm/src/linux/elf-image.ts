import { GodwitError } from '@godwit/core';
import type { KernelImage } from './kernel-image.js';

/** ELF-64 (elf.h): the file's header, and the program headers that say what is loaded where. */
const ELF_MAGIC = 0x464c_457f;
const CLASS_64_LITTLE = 0x0102;
const MACHINE_X86_64 = 62;
const HEADER_BYTES = 64;
const PROGRAM_HEADER_BYTES = 56;
const LOADED = 1;
const NOTE = 4;
/** The note with the entry of a PVH guest: XEN_ELFNOTE_PHYS32_ENTRY of "Xen" (xen/include/public/elfnote.h). */
const ENTRY_NOTE = 18;
const ENTRY_NOTE_NAME = 'Xen\0';
/** Linux's own limit (COMMAND_LINE_SIZE, arch/x86/include/asm/setup.h), less the zero. */
const COMMAND_LINE_BYTES = 2047;

export function isElf(file: Uint8Array): boolean {
  return file.byteLength >= 4 && new DataView(file.buffer, file.byteOffset).getUint32(0, true) === ELF_MAGIC;
}

/**
 * Reads a vmlinux, the uncompressed kernel, which has to have an entry for PVH (CONFIG_PVH).
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT when it is none, or is cut off
 */
export function readElfImage(file: Uint8Array): KernelImage {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.byteLength < HEADER_BYTES || view.getUint16(4, true) !== CLASS_64_LITTLE) throw refused('it is not ELF-64');
  if (view.getUint16(18, true) !== MACHINE_X86_64) throw refused('it is not for x86-64');
  const headers = programHeaders(view);
  const loaded = headers.filter(({ type, fileBytes }) => type === LOADED && fileBytes > 0);
  if (loaded.length === 0) throw refused('nothing of it is to be loaded');
  const start = Math.min(...loaded.map(({ address }) => address));
  return {
    segments: loaded.map(({ address, offset, fileBytes }) => ({
      address,
      bytes: file.subarray(offset, offset + fileBytes),
    })),
    entry: entryOf(view, headers),
    neededBytes: Math.max(...loaded.map(({ address, memoryBytes }) => address + memoryBytes)) - start,
    commandLineBytes: COMMAND_LINE_BYTES,
    initrdEnd: 2 ** 32,
  };
}

interface ProgramHeader {
  readonly type: number;
  readonly offset: number;
  /** Physical. */
  readonly address: number;
  readonly fileBytes: number;
  readonly memoryBytes: number;
}

function programHeaders(view: DataView): ProgramHeader[] {
  const first = Number(view.getBigUint64(32, true));
  const count = view.getUint16(56, true);
  if (first + count * PROGRAM_HEADER_BYTES > view.byteLength) throw refused('its program headers are cut off');
  return Array.from({ length: count }, (_, i) => {
    const at = first + i * PROGRAM_HEADER_BYTES;
    const number = (offset: number): number => Number(view.getBigUint64(at + offset, true));
    const header = {
      ...{ type: view.getUint32(at, true), offset: number(8), address: number(24) },
      ...{ fileBytes: number(32), memoryBytes: number(40) },
    };
    if (header.offset + header.fileBytes > view.byteLength) throw refused(`its segment ${i} is cut off`);
    return header;
  });
}

/** The 32-bit entry, physical. */
function entryOf(view: DataView, headers: readonly ProgramHeader[]): number {
  for (const { type, offset, fileBytes } of headers) {
    if (type !== NOTE) continue;
    const end = offset + fileBytes;
    for (let at = offset; at + 12 <= end; ) {
      const [nameBytes, valueBytes] = [view.getUint32(at, true), view.getUint32(at + 4, true)];
      const value = at + 12 + aligned(nameBytes);
      const next = value + aligned(valueBytes);
      if (next > end) throw refused('its notes are cut off');
      const name = Buffer.from(view.buffer, view.byteOffset + at + 12, nameBytes).toString('latin1');
      if (view.getUint32(at + 8, true) === ENTRY_NOTE && name === ENTRY_NOTE_NAME && valueBytes >= 4) {
        return view.getUint32(value, true);
      }
      at = next;
    }
  }
  throw refused('it has no PVH entry (CONFIG_PVH): take its bzImage instead');
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / 4) * 4;
}

function refused(why: string): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', `the kernel is no vmlinux that can be booted: ${why}`);
}
