/**
 * The layout of a structure that the kernel shares with us, as data: offsets and sizes in bytes, on a 64-bit host.
 * A test compiles the named header and compares every number.
 */
export interface KernelStruct {
  readonly header: string;
  readonly struct: string;
  readonly size: number;
  readonly fields: Readonly<Record<string, readonly [offset: number, size: number]>>;
}

/** A constant of a kernel header, checked by the same test. */
export interface KernelDefine {
  readonly header: string;
  readonly define: string;
  readonly value: number;
}

/** Turns `{ NAME: value }` into the table that the test reads. */
export function kernelDefines(header: string, values: Readonly<Record<string, number>>): readonly KernelDefine[] {
  return Object.entries(values).map(([define, value]) => ({ header, define, value }));
}
