import { Type1 } from '@godwit/vfio/unstable';
import type { DmaContainer } from '../guest/dma-container.js';
import {
  call,
  MAXIMUM_BITMAP_BYTES,
  type MapDma,
  mapDma,
  packed,
  type UnmapDma,
  u32,
  u64,
  unmapDma,
} from '../guest/vfio-calls.js';
import type { Answer, ConformanceRow } from './conformance-row.js';
import type { RowPlace } from './dirty-pages-table.js';

/** The mapping that exists in rows about an existing mapping. */
export const MAPPED = { iova: 0x10_0000, size: 16 * 4096 } as const;
const { iova, size } = MAPPED;

export interface MapBench {
  readonly container: DmaContainer;
  /** 32 pages of this process. */
  readonly vaddr: bigint;
  readonly place: RowPlace;
}

type MapRow = ConformanceRow<MapBench>;

/** The error for a range whose end is beyond 2^64. */
const OVERFLOWS: Answer<string> = { from: { '6.12': 'EINVAL', '7.3': 'EOVERFLOW' } };

/** A map that is right, except for these values. */
function map(wrong: Partial<MapDma>): (bench: MapBench) => number {
  return ({ container, vaddr }) => mapDma(container, { vaddr, iova, size, ...wrong });
}

/** The same after `MAPPED` was mapped. */
function mapAgain(wrong: Partial<MapDma>): (bench: MapBench) => number {
  return (bench) => {
    bench.container.map(iova, bench.vaddr, size);
    return map(wrong)(bench);
  };
}

const ALL_FLAG = 2;
const VADDR_MAP_FLAG = 4;
const VADDR_UNMAP_FLAG = 4;

/** VFIO_IOMMU_MAP_DMA in a container that has only mediated devices: nothing is pinned before a driver asks for it. */
export const mapTable: readonly MapRow[] = [
  { when: 'a mapping', line: '1655', call: map({}), result: 0 },
  {
    when: 'the argument cannot be read',
    line: '2825',
    call: ({ container, place }) => call(container, Type1.VFIO_IOMMU_MAP_DMA, place.unmapped),
    result: 'EFAULT',
  },
  { when: 'argsz 31', line: '2828', call: map({ argsz: 31 }), result: 'EINVAL' },
  { when: 'argsz 4096', line: '2828', call: map({ argsz: 4096 }), result: 0 },
  { when: 'flag 8, unknown', line: '2828', call: map({ flags: 8 | 3 }), result: 'EINVAL' },
  { when: 'neither READ nor WRITE', line: '1569', call: map({ flags: 0 }), result: 'EINVAL' },
  { when: 'READ alone', line: '1569', call: map({ flags: 1 }), result: 0 },
  { when: 'WRITE alone', line: '1569', call: map({ flags: 2 }), result: 0 },
  { when: 'size 0', line: '1578', call: map({ size: 0 }), result: 'EINVAL' },
  { when: 'size is not aligned', line: '1578', call: map({ size: size + 512 }), result: 'EINVAL' },
  { when: 'iova is not aligned', line: '1578', call: map({ iova: iova + 512 }), result: 'EINVAL' },
  {
    when: 'vaddr is not aligned',
    line: '1578',
    call: (bench) => map({ vaddr: bench.vaddr + 1n })(bench),
    result: 'EINVAL',
  },
  { when: 'iova + size wraps', line: '1584', call: map({ iova: 2n ** 64n - 4096n }), result: OVERFLOWS },
  { when: 'vaddr + size wraps', line: '1584', call: map({ vaddr: 2n ** 64n - 4096n }), result: OVERFLOWS },
  {
    when: 'the last page of the address space',
    line: '1584',
    call: map({ iova: 2n ** 64n - 4096n, size: 4096 }),
    result: 0,
  },
  { when: 'VADDR and READ', line: '1569', call: map({ flags: VADDR_MAP_FLAG | 1 }), result: 'EINVAL' },
  { when: 'VADDR where nothing is mapped', line: '1592', call: map({ flags: VADDR_MAP_FLAG }), result: 'ENOENT' },
  {
    when: 'VADDR where the address was not taken away',
    line: '1593',
    call: mapAgain({ flags: VADDR_MAP_FLAG }),
    result: 'EINVAL',
  },
  { when: 'the same once more', line: '1606', call: mapAgain({}), result: 'EEXIST' },
  { when: 'over the end of a mapping', line: '1606', call: mapAgain({ iova: iova + size - 4096 }), result: 'EEXIST' },
  { when: 'around a mapping', line: '1606', call: mapAgain({ iova: iova - size, size: 2 * size }), result: 'EEXIST' },
  { when: 'right behind a mapping', line: '1606', call: mapAgain({ iova: iova + size }), result: 0 },
  {
    when: 'memory that is not there: nobody looks before it is pinned',
    line: '1652',
    call: ({ container, place }) => mapDma(container, { vaddr: place.unmapped, iova, size: 4096 }),
    result: 0,
  },
];

/** What a row asks for; the bitmap's address is the bench's unless it says otherwise. */
type UnmapRequest = Partial<Omit<UnmapDma, 'bitmap'>> & {
  readonly bitmap?: { readonly pgsize: number; readonly size: number; readonly data?: bigint };
};

/** VFIO_IOMMU_UNMAP_DMA after `MAPPED` and 16 pages right behind it were mapped. */
function unmap(request: UnmapRequest, options: { readonly tracking?: boolean } = {}): (bench: MapBench) => number {
  return ({ container, vaddr, place }) => {
    const bitmap = request.bitmap === undefined ? {} : { bitmap: { data: place.bitmap, ...request.bitmap } };
    container.map(iova, vaddr, size);
    container.map(iova + size, vaddr, size);
    if (options.tracking ?? false) container.start();
    return unmapDma(container, { iova, size, ...request, ...bitmap } as UnmapDma).result;
  };
}

const bitmap = { pgsize: 4096, size: 8 };
const tracking = { tracking: true };

export const unmapTable: readonly MapRow[] = [
  { when: 'a mapping', line: '1408', call: unmap({}), result: 0 },
  { when: 'two mappings at once', line: '1408', call: unmap({ size: 2 * size }), result: 0 },
  {
    when: 'the argument cannot be read',
    line: '2847',
    call: ({ container, place }) => call(container, Type1.VFIO_IOMMU_UNMAP_DMA, place.unmapped),
    result: 'EFAULT',
  },
  { when: 'argsz 23', line: '2850', call: unmap({ argsz: 23 }), result: 'EINVAL' },
  { when: 'flag 8, unknown', line: '2850', call: unmap({ flags: 8 }), result: 'EINVAL' },
  { when: 'iova is not aligned', line: '1295', call: unmap({ iova: iova + 512 }), result: 'EINVAL' },
  { when: 'size is not aligned', line: '1302', call: unmap({ size: size + 512 }), result: 'EINVAL' },
  { when: 'size 0', line: '1302', call: unmap({ size: 0 }), result: 'EINVAL' },
  { when: 'iova + size wraps', line: '1302', call: unmap({ iova: 2n ** 64n - 4096n, size: 8192 }), result: OVERFLOWS },
  {
    when: 'the range begins inside a mapping',
    line: '1348',
    call: unmap({ iova: iova + 4096, size: size - 4096 }),
    result: 'EINVAL',
  },
  { when: 'the range ends inside a mapping', line: '1352', call: unmap({ size: size - 4096 }), result: 'EINVAL' },
  { when: 'a range where nothing is mapped', line: '1357', call: unmap({ iova: 2 ** 40 }), result: 0 },
  { when: 'ALL', line: '1299', call: unmap({ flags: ALL_FLAG, iova: 0, size: 0 }), result: 0 },
  { when: 'ALL with an iova', line: '1299', call: unmap({ flags: ALL_FLAG, size: 0 }), result: 'EINVAL' },
  { when: 'ALL with a size', line: '1299', call: unmap({ flags: ALL_FLAG, iova: 0 }), result: 'EINVAL' },
  {
    when: 'VADDR with a mediated device in the container',
    line: '1286',
    call: unmap({ flags: VADDR_UNMAP_FLAG }),
    result: 'EBUSY',
  },
  { when: 'GET_DIRTY_BITMAP', line: '1401', call: unmap({ bitmap }, tracking), result: 0 },
  {
    when: 'GET_DIRTY_BITMAP with ALL',
    line: '2853',
    call: unmap({ bitmap, flags: 1 | ALL_FLAG, iova: 0, size: 0 }, tracking),
    result: 'EINVAL',
  },
  {
    when: 'GET_DIRTY_BITMAP with VADDR',
    line: '2853',
    call: unmap({ bitmap, flags: 1 | VADDR_UNMAP_FLAG }, tracking),
    result: 'EINVAL',
  },
  {
    when: 'GET_DIRTY_BITMAP with argsz 47',
    line: '2861',
    call: unmap({ bitmap, argsz: 47 }, tracking),
    result: 'EINVAL',
  },
  {
    when: 'GET_DIRTY_BITMAP: the struct of the bitmap cannot be read',
    line: '2864',
    call: ({ container, place }) =>
      call(container, Type1.VFIO_IOMMU_UNMAP_DMA, place.cutAfter(packed(u32(48, 1), u64(iova, size)), 24)),
    result: 'EFAULT',
  },
  {
    when: 'GET_DIRTY_BITMAP: bitmap.size too small',
    line: '2873',
    call: unmap({ bitmap: { ...bitmap, size: 7 } }, tracking),
    result: 'EINVAL',
  },
  {
    when: 'GET_DIRTY_BITMAP: bitmap.size 256 MiB + 8',
    line: '2873',
    call: unmap({ bitmap: { ...bitmap, size: MAXIMUM_BITMAP_BYTES + 8 } }, tracking),
    result: 'EINVAL',
  },
  {
    when: 'GET_DIRTY_BITMAP: pgsize 8192',
    line: '1309',
    call: unmap({ bitmap: { ...bitmap, pgsize: 8192 } }, tracking),
    result: 'EINVAL',
  },
  {
    when: 'GET_DIRTY_BITMAP: the bitmap at an address of the kernel',
    line: '2869',
    call: unmap({ bitmap: { ...bitmap, data: 0xffff_8880_0000_0000n } }, tracking),
    result: 'EINVAL',
  },
  { when: 'GET_DIRTY_BITMAP without tracking', line: '1309', call: unmap({ bitmap }), result: 'EINVAL' },
  {
    when: 'GET_DIRTY_BITMAP: the bitmap cannot be written',
    line: '1401',
    call: (bench) => unmap({ bitmap: { ...bitmap, data: bench.place.unmapped } }, tracking)(bench),
    result: 'EFAULT',
  },
];
