import { DirtyPages, type GetBitmap, getBitmapArgument, MAXIMUM_BITMAP_BYTES, u32 } from '../guest/vfio-calls.js';
import type { Answer } from './conformance-row.js';

/*
 * VFIO_IOMMU_DIRTY_PAGES in Linux 6.12, check by check in the order in which vfio_iommu_type1.c makes them: the number of
 * a row is the check's, `line` is where it stands in Debian's 6.12.117. The tables are data: the suites put every row
 * to the kernel.
 */

/** The address and the pages of the single mapping in a row's container, unless the row has other mappings. */
export const MAPPING = { iova: 0x10_0000, pages: 16 } as const;
const { iova } = MAPPING;
const size = MAPPING.pages * 4096;

/** The addresses that a row needs. */
export interface RowPlace {
  /** Address of a bitmap buffer of `MAXIMUM_BITMAP_BYTES` + 8 bytes, page-aligned, for the kernel to write to. */
  readonly bitmap: bigint;
  /** An address where nothing is mapped. */
  readonly unmapped: bigint;
  /** Address of a page that can be read and not written. */
  readonly readOnly: bigint;
  /** Copies these bytes to a place where only the first `readable` of them can be read; returns the address. */
  cutAfter(bytes: Uint8Array, readable: number): bigint;
}

export interface RowMapping {
  readonly iova: number | bigint;
  readonly size: number | bigint;
}

export interface DirtyPagesRow {
  /** The number of the check; `S` and `T` are START and STOP, `ok` is a call that passes all checks. */
  readonly row: number | 'S' | 'T' | 'ok';
  readonly when: string;
  readonly line: string;
  readonly iommu?: 'VFIO_TYPE1_IOMMU';
  /** Default: one, at `MAPPING`. */
  readonly mappings?: readonly RowMapping[];
  /** Whether START comes before. Default: true. */
  readonly tracking?: boolean;
  readonly argument: (place: RowPlace) => Uint8Array | bigint;
  readonly result: Answer<0 | 'EACCES' | 'EFAULT' | 'EINVAL' | 'EOVERFLOW'>;
}

/** A GET that is right for `MAPPING`, except for these values. */
function get(wrong: GetBitmap): (place: RowPlace) => Uint8Array {
  return ({ bitmap }) => getBitmapArgument({ iova, size, bitmapSize: 8, data: bitmap, ...wrong });
}

function flags(value: number, argsz = 8): () => Uint8Array {
  return () => u32(argsz, value);
}

const two: readonly RowMapping[] = [
  { iova, size },
  { iova: iova + 2 * size, size },
];

export const dirtyPagesTable: readonly DirtyPagesRow[] = [
  {
    row: 1,
    when: 'the container is TYPE1 v1: START',
    line: '2897',
    iommu: 'VFIO_TYPE1_IOMMU',
    tracking: false,
    argument: flags(1),
    result: 'EACCES',
  },
  {
    row: 1,
    when: 'the container is TYPE1 v1: before the argument is looked at',
    line: '2897',
    iommu: 'VFIO_TYPE1_IOMMU',
    tracking: false,
    argument: ({ unmapped }) => unmapped,
    result: 'EACCES',
  },
  {
    row: 1,
    when: 'the container is TYPE1 v1: before the flags are',
    line: '2897',
    iommu: 'VFIO_TYPE1_IOMMU',
    tracking: false,
    argument: flags(0),
    result: 'EACCES',
  },
  {
    row: 2,
    when: 'the first 8 bytes cannot be read',
    line: '2902',
    argument: ({ unmapped }) => unmapped,
    result: 'EFAULT',
  },
  {
    row: 2,
    when: 'of the first 8 bytes only 4 can be read',
    line: '2902',
    argument: ({ cutAfter }) => cutAfter(u32(8, 1), 4),
    result: 'EFAULT',
  },
  { row: 3, when: 'argsz 7', line: '2905', argument: flags(DirtyPages.START, 7), result: 'EINVAL' },
  { row: 3, when: 'argsz 0', line: '2905', argument: flags(DirtyPages.STOP, 0), result: 'EINVAL' },
  { row: 3, when: 'flag 8, unknown', line: '2905', argument: flags(8), result: 'EINVAL' },
  { row: 3, when: 'START and the unknown flag 1 << 31', line: '2905', argument: flags(2 ** 31 + 1), result: 'EINVAL' },
  { row: 4, when: 'no flag', line: '2988', argument: flags(0), result: 'EINVAL' },
  { row: 4, when: 'START and STOP', line: '2909', argument: flags(3), result: 'EINVAL' },
  { row: 4, when: 'START and GET_BITMAP', line: '2909', argument: get({ flags: 5 }), result: 'EINVAL' },
  { row: 4, when: 'STOP and GET_BITMAP', line: '2909', argument: get({ flags: 6 }), result: 'EINVAL' },
  { row: 4, when: 'all three flags', line: '2909', argument: get({ flags: 7 }), result: 'EINVAL' },
  { row: 'S', when: 'START', line: '2917', tracking: false, argument: flags(DirtyPages.START), result: 0 },
  { row: 'S', when: 'START a second time', line: '2917', argument: flags(DirtyPages.START), result: 0 },
  {
    row: 'S',
    when: 'START with argsz 4096',
    line: '2917',
    tracking: false,
    argument: flags(DirtyPages.START, 4096),
    result: 0,
  },
  {
    row: 'S',
    when: 'START without a mapping',
    line: '2917',
    tracking: false,
    mappings: [],
    argument: flags(DirtyPages.START),
    result: 0,
  },
  {
    row: 'S',
    when: 'START with a mapping of 2^31 pages, one more than fit an int',
    line: '238',
    tracking: false,
    mappings: [{ iova: 0, size: 2n ** 43n }],
    argument: flags(DirtyPages.START),
    result: 'EINVAL',
  },
  { row: 'T', when: 'STOP', line: '2924', argument: flags(DirtyPages.STOP), result: 0 },
  { row: 'T', when: 'STOP without START', line: '2924', tracking: false, argument: flags(DirtyPages.STOP), result: 0 },
  { row: 'T', when: 'STOP with argsz 4096', line: '2924', argument: flags(DirtyPages.STOP, 4096), result: 0 },
  { row: 5, when: 'argsz 47', line: '2938', argument: get({ argsz: 47 }), result: 'EINVAL' },
  { row: 5, when: 'argsz 8', line: '2938', argument: get({ argsz: 8 }), result: 'EINVAL' },
  {
    row: 5,
    when: 'argsz 47, before the rest is read',
    line: '2938',
    argument: ({ cutAfter }) => cutAfter(u32(47, 4), 8),
    result: 'EINVAL',
  },
  {
    row: 6,
    when: 'the 40 bytes behind the first 8 cannot be read',
    line: '2941',
    argument: ({ cutAfter }) => cutAfter(u32(48, 4), 8),
    result: 'EFAULT',
  },
  {
    row: 6,
    when: 'of the 40 bytes all but the last can be read',
    line: '2941',
    argument: (place) => place.cutAfter(get({})(place), 47),
    result: 'EFAULT',
  },
  {
    row: 7,
    when: 'iova + size wraps',
    line: '2945',
    argument: get({ iova: 2n ** 64n - 4096n, size: 8192 }),
    result: { from: { '6.12': 'EINVAL', '7.3': 'EOVERFLOW' } },
  },
  {
    row: 7,
    when: 'iova + size is 2^64',
    line: '2945',
    argument: get({ iova: 2n ** 64n - 4096n, size: 4096 }),
    result: { from: { '6.12': 'EINVAL', '7.3': 0 } },
  },
  {
    row: 8,
    when: 'the bitmap is at an address of the kernel',
    line: '2947',
    argument: get({ data: 0xffff_8880_0000_0000n }),
    result: 'EINVAL',
  },
  {
    row: 8,
    when: 'the bitmap runs into addresses of the kernel',
    line: '2947',
    argument: get({ data: 2n ** 64n - 4n }),
    result: 'EINVAL',
  },
  { row: 9, when: 'size is less than a page', line: '2951', argument: get({ size: 4095 }), result: 'EINVAL' },
  { row: 9, when: 'bitmap.size 0', line: '1234', argument: get({ bitmapSize: 0 }), result: 'EINVAL' },
  {
    row: 9,
    when: 'bitmap.size 7: too small for 16 pages, which take a whole 64-bit word',
    line: '1234',
    argument: get({ bitmapSize: 7 }),
    result: 'EINVAL',
  },
  {
    row: 9,
    when: 'bitmap.size 8 for 65 pages',
    line: '1234',
    mappings: [{ iova, size: 65 * 4096 }],
    argument: get({ size: 65 * 4096 }),
    result: 'EINVAL',
  },
  {
    row: 9,
    when: 'bitmap.size 256 MiB + 8',
    line: '1234',
    argument: get({ bitmapSize: MAXIMUM_BITMAP_BYTES + 8 }),
    result: 'EINVAL',
  },
  {
    row: 9,
    when: 'bitmap.size 2^64 - 1',
    line: '1234',
    argument: get({ bitmapSize: 2n ** 64n - 1n }),
    result: 'EINVAL',
  },
  { row: 10, when: 'pgsize 0', line: '2962', argument: get({ pgsize: 0 }), result: 'EINVAL' },
  { row: 10, when: 'pgsize 2048', line: '2962', argument: get({ pgsize: 2048 }), result: 'EINVAL' },
  { row: 10, when: 'pgsize 4097', line: '2962', argument: get({ pgsize: 4097 }), result: 'EINVAL' },
  { row: 10, when: 'pgsize 12288', line: '2962', argument: get({ pgsize: 12288 }), result: 'EINVAL' },
  {
    row: 10,
    when: 'pgsize 2 MiB',
    line: '2962',
    mappings: [{ iova: 0, size: 2 ** 21 }],
    argument: get({ iova: 0, size: 2 ** 21, pgsize: 2 ** 21, bitmapSize: 64 }),
    result: 'EINVAL',
  },
  { row: 11, when: 'iova is not aligned', line: '2966', argument: get({ iova: iova + 1 }), result: 'EINVAL' },
  { row: 11, when: 'iova is half a page off', line: '2966', argument: get({ iova: iova + 2048 }), result: 'EINVAL' },
  { row: 12, when: 'size 0', line: '2970', argument: get({ size: 0 }), result: 'EINVAL' },
  { row: 12, when: 'size is not aligned', line: '2970', argument: get({ size: size + 1 }), result: 'EINVAL' },
  { row: 13, when: 'tracking was never started', line: '2975', tracking: false, argument: get({}), result: 'EINVAL' },
  {
    row: 14,
    when: 'the range begins inside a mapping',
    line: '1200',
    argument: get({ iova: iova + 4096, size: size - 4096 }),
    result: 'EINVAL',
  },
  {
    row: 14,
    when: 'the range ends inside a mapping',
    line: '1204',
    argument: get({ size: size - 4096 }),
    result: 'EINVAL',
  },
  {
    row: 14,
    when: 'the range is the middle of a mapping',
    line: '1200',
    argument: get({ iova: iova + 4096, size: 4096 }),
    result: 'EINVAL',
  },
  {
    row: 14,
    when: 'the range is a mapping and half of the next',
    line: '1204',
    mappings: two,
    argument: get({ size: 2 * size + 4096 }),
    result: 'EINVAL',
  },
  {
    row: 15,
    when: 'nothing is mapped at the bitmap’s address',
    line: '1179',
    argument: ({ unmapped }) => getBitmapArgument({ iova, size, data: unmapped }),
    result: 'EFAULT',
  },
  {
    row: 15,
    when: 'the bitmap is in a read-only page',
    line: '1179',
    argument: ({ readOnly }) => getBitmapArgument({ iova, size, data: readOnly }),
    result: 'EFAULT',
  },
  {
    row: 15,
    when: 'the word that a second mapping begins in the middle of, which is read back and ORed, cannot be read',
    line: '1171',
    mappings: [
      { iova, size },
      { iova: iova + 96 * 4096, size },
    ],
    argument: ({ unmapped }) => getBitmapArgument({ iova, size: 112 * 4096, bitmapSize: 16, data: unmapped - 8n }),
    result: 'EFAULT',
  },
  { row: 'ok', when: 'GET of the mapping', line: '2983', argument: get({}), result: 0 },
  { row: 'ok', when: 'argsz 4096', line: '2938', argument: get({ argsz: 4096 }), result: 0 },
  {
    row: 'ok',
    when: 'bitmap.size 9: larger than needed, and no multiple of 8',
    line: '1234',
    argument: get({ bitmapSize: 9 }),
    result: 0,
  },
  {
    row: 'ok',
    when: 'bitmap.size 256 MiB',
    line: '1234',
    argument: get({ bitmapSize: MAXIMUM_BITMAP_BYTES }),
    result: 0,
  },
  {
    row: 'ok',
    when: 'the bitmap’s address is not aligned',
    line: '2947',
    argument: (place) => get({ data: place.bitmap + 3n })(place),
    result: 0,
  },
  {
    row: 'ok',
    when: 'the range has a hole: two mappings and what is between them',
    line: '1195',
    mappings: two,
    argument: get({ size: 3 * size }),
    result: 0,
  },
  {
    row: 'ok',
    when: 'the range is more than the mapping',
    line: '1195',
    argument: get({ iova: iova - size, size: 3 * size }),
    result: 0,
  },
  { row: 'ok', when: 'nothing is mapped in the range', line: '1195', argument: get({ iova: 2 ** 40 }), result: 0 },
  {
    row: 'ok',
    when: 'nothing is mapped in the range: the bitmap is not touched, wherever it is',
    line: '1195',
    argument: (place) => get({ iova: 2 ** 40, data: place.unmapped })(place),
    result: 0,
  },
];
