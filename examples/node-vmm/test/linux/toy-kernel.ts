/** Fields of a bzImage's setup header: Documentation/arch/x86/boot.rst. */
const SETUP_SECTORS = 1;
const SETUP_BYTES = (SETUP_SECTORS + 1) * 512;
const ENTRY_OFFSET = 0x200;

export const TOY_ADDRESS = 0x100_0000;
export const TOY_NEEDS = 0x10_0000;

/** A bzImage whose kernel is `code`, at its 64-bit entry. */
export function toyKernel(code: readonly number[], version = 0x020f): Uint8Array {
  const file = new Uint8Array(SETUP_BYTES + ENTRY_OFFSET + code.length);
  const view = new DataView(file.buffer);
  file[0x1f1] = SETUP_SECTORS;
  view.setUint16(0x1fe, 0xaa55, true);
  // A jump over the header, which ends at 0x26c.
  file.set([0xeb, 0x26c - 0x202], 0x200);
  file.set(Buffer.from('HdrS'), 0x202);
  view.setUint16(0x206, version, true);
  file[0x211] = 1;
  view.setUint32(0x22c, 0x7fff_ffff, true);
  view.setUint16(0x236, 1, true);
  view.setUint32(0x238, 2047, true);
  view.setBigUint64(0x258, BigInt(TOY_ADDRESS), true);
  view.setUint32(0x260, TOY_NEEDS, true);
  file.set(code, SETUP_BYTES + ENTRY_OFFSET);
  return file;
}

/**
 * Prints the command line that the boot parameters (RSI) name, then does the rest.
 *
 * mov ebx, [rsi + 0x228]; next: mov al, [rbx]; test al, al; jz rest; mov edx, 0x3f8; out dx, al; inc rbx; jmp next; rest:
 */
export function printsCommandLine(rest: readonly number[]): number[] {
  return [
    ...[0x8b, 0x9e, 0x28, 0x02, 0x00, 0x00, 0x8a, 0x03, 0x84, 0xc0, 0x74, 0x0b],
    ...[0xba, 0xf8, 0x03, 0x00, 0x00, 0xee, 0x48, 0xff, 0xc3, 0xeb, 0xef, ...rest],
  ];
}

/** mov edx, 0x604; mov eax, 5 << 10 | 1 << 13; out dx, ax; hlt */
export const POWER_OFF = [0xba, 0x04, 0x06, 0x00, 0x00, 0xb8, 0x00, 0x34, 0x00, 0x00, 0x66, 0xef, 0xf4];
/** mov al, 0xfe; out 0x64, al; hlt */
export const RESET = [0xb0, 0xfe, 0xe6, 0x64, 0xf4];

/** Where a toy vmlinux has its note and its code. */
export const TOY_PVH = { note: 0xb0, code: 0x100 } as const;
const CODE_OFFSET = 0x10;

/** An ELF file with one segment, whose code is at its PVH entry, in 32-bit mode. */
export function toyVmlinux(code: readonly number[]): Uint8Array {
  const file = new Uint8Array(TOY_PVH.code + CODE_OFFSET + code.length);
  const view = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, 62, true);
  view.setBigUint64(32, 64n, true);
  view.setUint16(56, 2, true);
  const header = (at: number, type: number, offset: number, address: number, inFile: number, inMemory: number) => {
    view.setUint32(at, type, true);
    [offset, address, address, inFile, inMemory].forEach((value, i) => {
      view.setBigUint64(at + 8 + 8 * i, BigInt(value), true);
    });
  };
  header(64, 1, TOY_PVH.code, TOY_ADDRESS, CODE_OFFSET + code.length, TOY_NEEDS);
  header(120, 4, TOY_PVH.note, 0, 20, 20);
  [4, 4, 18].forEach((value, i) => {
    view.setUint32(TOY_PVH.note + 4 * i, value, true);
  });
  file.set(Buffer.from('Xen\0'), TOY_PVH.note + 12);
  view.setUint32(TOY_PVH.note + 16, TOY_ADDRESS + CODE_OFFSET, true);
  file.set(code, TOY_PVH.code + CODE_OFFSET);
  return file;
}
