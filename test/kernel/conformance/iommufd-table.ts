import { IommufdFlag, IommufdRequest } from '@godwit/vfio/unstable';
import { MOCK_APERTURE } from '../guest/mock-iommu.js';
import { call, type Descriptor, packed, u32, u64 } from '../guest/vfio-calls.js';
import type { ConformanceRow } from './conformance-row.js';
import type { RowPlace } from './dirty-pages-table.js';

/** A device of the mock IOMMU, or of the model. */
export interface TableDevice {
  readonly deviceId: number;
  attach(id: number): number;
}

/** An address space with one mapping, a mock device, and a page table of it that logs, with tracking on. */
export interface IommufdBench {
  readonly iommufd: Descriptor;
  readonly ioas: number;
  readonly pagetable: number;
  readonly device: TableDevice;
  /** A device whose IOMMU cannot log, attached to the same address space. */
  readonly incapable: TableDevice;
  readonly place: RowPlace;
  /** 16 pages of this process, mapped at `MAPPED_IOVA`. */
  readonly vaddr: bigint;
}

export const MAPPED_IOVA = MOCK_APERTURE.start;
export const MAPPED_BYTES = 16 * 4096;

type IommufdRow = ConformanceRow<IommufdBench>;
const { IOMMU_HWPT_ALLOC_DIRTY_TRACKING, IOMMU_HWPT_DIRTY_TRACKING_ENABLE } = IommufdFlag;

interface GetDirty {
  readonly size?: number;
  readonly pagetable?: number;
  readonly flags?: number;
  readonly iova?: number | bigint;
  readonly length?: number | bigint;
  readonly pageSize?: number;
  readonly data?: bigint;
  readonly tail?: Uint8Array;
}

/** IOMMU_HWPT_GET_DIRTY_BITMAP, 48 bytes, right for the bench's mapping except for these values. */
export function getDirty(bench: IommufdBench, wrong: GetDirty = {}): number {
  const { size = 48, pagetable = bench.pagetable, flags = 0, iova = MAPPED_IOVA, length = MAPPED_BYTES } = wrong;
  const head = u32(size, pagetable, flags, 0);
  const range = u64(iova, length, wrong.pageSize ?? 4096, wrong.data ?? bench.place.bitmap);
  const argument = packed(head, range, wrong.tail ?? new Uint8Array(0));
  return call(bench.iommufd, IommufdRequest.IOMMU_HWPT_GET_DIRTY_BITMAP, argument);
}

export function setTracking({ iommufd }: IommufdBench, pagetable: number, flags: number): number {
  return call(iommufd, IommufdRequest.IOMMU_HWPT_SET_DIRTY_TRACKING, u32(16, flags, pagetable, 0));
}

/** IOMMU_HWPT_ALLOC, 48 bytes: the new page table's number, or minus errno. */
function allocate({ iommufd, ioas }: IommufdBench, device: TableDevice, flags: number): number {
  const argument = packed(u32(48, flags, device.deviceId, ioas), new Uint8Array(32));
  const result = call(iommufd, IommufdRequest.IOMMU_HWPT_ALLOC, argument);
  return result < 0 ? result : new DataView(argument.buffer).getUint32(16, true);
}

function get(wrong: GetDirty): (bench: IommufdBench) => number {
  return (bench) => getDirty(bench, wrong);
}

/** iommufd of Linux 6.12 (drivers/iommu/iommufd), with its mock devices. */
export const iommufdTable: readonly IommufdRow[] = [
  { when: 'an unknown request', line: 'main.c:436', call: ({ iommufd }) => call(iommufd, 0x3bbf), result: 'ENOTTY' },
  {
    when: 'the size cannot be read',
    line: 'main.c:430',
    call: ({ iommufd, place }) => call(iommufd, IommufdRequest.IOMMU_IOAS_ALLOC, place.unmapped),
    result: 'EFAULT',
  },
  { when: 'a size that is too small', line: 'main.c:438', call: get({ size: 40 }), result: 'EINVAL' },
  {
    when: 'a larger struct, the rest zero: from a newer program',
    line: 'main.c:441',
    call: get({ size: 56, tail: new Uint8Array(8) }),
    result: 0,
  },
  {
    when: 'a larger struct, the rest not zero',
    line: 'main.c:441',
    call: get({ size: 56, tail: u64(1) }),
    result: 'E2BIG',
  },
  {
    when: 'HWPT_ALLOC with DIRTY_TRACKING for a device whose IOMMU cannot',
    line: 'hw_pagetable.c',
    call: (bench) => allocate(bench, bench.incapable, IOMMU_HWPT_ALLOC_DIRTY_TRACKING),
    result: 'EOPNOTSUPP',
  },
  {
    when: 'HWPT_ALLOC with an unknown flag',
    line: 'hw_pagetable.c',
    call: (bench) => allocate(bench, bench.device, 1 << 30),
    result: 'EOPNOTSUPP',
  },
  {
    when: 'attaching a device whose IOMMU cannot to a page table that logs',
    line: 'selftest.c',
    call: ({ incapable, pagetable }) => incapable.attach(pagetable),
    result: 'EINVAL',
  },
  {
    when: 'SET_DIRTY_TRACKING on, a second time',
    line: 'hw_pagetable.c',
    call: (bench) => setTracking(bench, bench.pagetable, IOMMU_HWPT_DIRTY_TRACKING_ENABLE),
    result: 0,
  },
  {
    when: 'SET_DIRTY_TRACKING off, twice',
    line: 'hw_pagetable.c',
    call: (bench) => setTracking(bench, bench.pagetable, 0) || setTracking(bench, bench.pagetable, 0),
    result: 0,
  },
  {
    when: 'SET_DIRTY_TRACKING with an unknown flag',
    line: 'hw_pagetable.c',
    call: (bench) => setTracking(bench, bench.pagetable, 2),
    result: 'EOPNOTSUPP',
  },
  {
    when: 'SET_DIRTY_TRACKING of a page table that cannot log',
    line: 'hw_pagetable.c',
    call: (bench) => setTracking(bench, allocate(bench, bench.device, 0), 1),
    result: 'EOPNOTSUPP',
  },
  {
    when: 'SET_DIRTY_TRACKING of nothing',
    line: 'hw_pagetable.c',
    call: (bench) => setTracking(bench, 12345, 1),
    result: 'ENOENT',
  },
  { when: 'GET_DIRTY_BITMAP', line: 'hw_pagetable.c', call: get({}), result: 0 },
  { when: 'GET_DIRTY_BITMAP of part of a mapping', line: 'io_pagetable.c:554', call: get({ length: 4096 }), result: 0 },
  { when: 'GET_DIRTY_BITMAP without clearing', line: 'hw_pagetable.c', call: get({ flags: 1 }), result: 0 },
  {
    when: 'GET_DIRTY_BITMAP with an unknown flag',
    line: 'hw_pagetable.c',
    call: get({ flags: 2 }),
    result: 'EOPNOTSUPP',
  },
  { when: 'GET_DIRTY_BITMAP of nothing', line: 'hw_pagetable.c', call: get({ pagetable: 12345 }), result: 'ENOENT' },
  { when: 'GET_DIRTY_BITMAP with length 0', line: 'io_pagetable.c:524', call: get({ length: 0 }), result: 'EINVAL' },
  {
    when: 'GET_DIRTY_BITMAP with page size 0',
    line: 'io_pagetable.c:537',
    call: get({ pageSize: 0 }),
    result: 'EINVAL',
  },
  {
    when: 'GET_DIRTY_BITMAP with an iova that is not aligned to the IOMMU’s pages',
    line: 'io_pagetable.c:533',
    call: get({ iova: MAPPED_IOVA + 512 }),
    result: 'EINVAL',
  },
  {
    when: 'GET_DIRTY_BITMAP with an iova that is not aligned to the page size',
    line: 'io_pagetable.c:540',
    call: get({ iova: MAPPED_IOVA + 2048, length: 4096 }),
    result: 'EINVAL',
  },
  {
    when: 'GET_DIRTY_BITMAP with a length that is not aligned to the page size',
    line: 'io_pagetable.c:541',
    call: get({ length: 6144 }),
    result: 'EINVAL',
  },
  {
    when: 'GET_DIRTY_BITMAP of a range that wraps',
    line: 'io_pagetable.c:527',
    call: get({ iova: 2n ** 64n - 4096n, length: 8192 }),
    result: 'EOVERFLOW',
  },
  ...[4097, 12288].map(
    (pageSize): IommufdRow => ({
      when: `GET_DIRTY_BITMAP with a page size of ${pageSize}, which is no power of two: not checked`,
      line: 'io_pagetable.c:540',
      call: get({ pageSize }),
      result: 0,
    }),
  ),
  {
    when: 'GET_DIRTY_BITMAP of a range that is not mapped at all: not checked',
    line: 'io_pagetable.c:508',
    call: get({ iova: MAPPED_IOVA + 2 ** 24 }),
    result: 0,
  },
  {
    when: 'GET_DIRTY_BITMAP with tracking off: not checked',
    line: 'io_pagetable.c:508',
    call: (bench) => setTracking(bench, bench.pagetable, 0) || getDirty(bench),
    result: 0,
  },
  {
    when: 'GET_DIRTY_BITMAP into a bitmap that cannot be written: not checked',
    line: 'iova_bitmap.c:415',
    call: (bench) => getDirty(bench, { data: bench.place.unmapped }),
    result: 0,
  },
];
