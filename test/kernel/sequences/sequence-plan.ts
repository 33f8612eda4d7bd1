/** Guest RAM of the random sequences: blocks whose sizes and addresses are no multiples of 64 pages. */
export const SEQUENCE_BLOCKS = [
  { id: 'low', guestPhysicalAddress: 0, byteLength: 150 * 4096 },
  { id: 'high', guestPhysicalAddress: 0x1_0000_3000, byteLength: 131 * 4096 },
];

/** 1,000 seeds in tests of 100: the first and the last of each. */
export const SEQUENCES: readonly (readonly [first: number, last: number])[] = Array.from(
  { length: 10 },
  (_, i) => [i * 100, i * 100 + 99] as const,
);

export function seedsOf(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

/** Guest RAM of the sequences whose changes and harvests overlap. */
export const OVERLAP_BLOCKS = [{ id: 'ram', guestPhysicalAddress: 0x20_0000, byteLength: 96 * 4096 }];
