/** One C struct of a kernel header, for 64-bit little-endian Linux. */
export interface StructLayout<Field extends string = string> {
  /** As included: `linux/kvm.h`. */
  readonly header: string;
  /** Without the word `struct`. */
  readonly struct: string;
  /** Bytes. */
  readonly size: number;
  /** True when newer headers append fields and the kernel accepts every size: this one is one of several. */
  readonly grows?: boolean;
  /** The processor whose headers have this form; absent for a form that all 64-bit little-endian ones share. */
  readonly only?: 'x64';
  /** In C's own notation (`args[0]`, `pagefault.address` are fine), in bytes. */
  readonly fields: Readonly<Record<Field, readonly [offset: number, size: number]>>;
}

/** One number of a kernel header: an ioctl request, a flag, a bit. */
export interface DefineLayout {
  readonly header: string;
  readonly define: string;
  readonly value: number;
  /** For an ioctl request: the struct whose size is in its number. */
  readonly argument?: string;
  /** The processor, as for a struct. */
  readonly only?: 'x64';
}

/**
 * A layout that this package assumes of the kernel's headers. A test compiles a C program against the headers of its
 * machine and compares: it checks every table that `@godwit/linux/unstable` exports under a name `...Layouts`.
 */
export type KernelLayout = StructLayout | DefineLayout;

/** Declares a struct; the fields' names are kept as a type. */
export function struct<Field extends string>(
  header: string,
  name: string,
  size: number,
  fields: Readonly<Record<Field, readonly [offset: number, size: number]>>,
  options: { readonly grows?: boolean } = {},
): StructLayout<Field> {
  return { header, struct: name, size, fields, ...options };
}

/** Turns an object of numbers into entries of a table. */
export function defines(
  header: string,
  numbers: Readonly<Record<string, number>>,
  options: { readonly argument?: string } = {},
): DefineLayout[] {
  return Object.entries(numbers).map(([define, value]) => ({ header, define, value, ...options }));
}
