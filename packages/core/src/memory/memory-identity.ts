/** Where the memory of a block lies: a range of bytes of a file, as in the block's identity. */
export interface MemoryRange {
  readonly file: string;
  readonly start: number;
  readonly end: number;
}

/**
 * The memory that an identity names: `file+offset` names the range of `byteLength` bytes from `offset` on, any other identity the whole
 * file. `undefined` for a block without an identity.
 */
export function memoryRange(identity: string | undefined, byteLength: number): MemoryRange | undefined {
  if (identity === undefined || identity === '') return undefined;
  const [, file, digits] = /^(.*)\+(\d+)$/s.exec(identity) ?? [];
  const start = Number(digits);
  if (file === undefined || !Number.isSafeInteger(start))
    return { file: identity, start: 0, end: Number.POSITIVE_INFINITY };
  return { file, start, end: start + byteLength };
}

/** Whether two ranges have a byte in common. */
export function overlap(one: MemoryRange, other: MemoryRange): boolean {
  return one.file === other.file && one.start < other.end && other.start < one.end;
}
