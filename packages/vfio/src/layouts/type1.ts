import { defines, type KernelLayout, struct } from '@godwit/linux/unstable';

const HEADER = 'linux/vfio.h';

/** The type1 IOMMU's part of linux/vfio.h: requests on a container. */
export const Type1 = {
  VFIO_IOMMU_GET_INFO: 0x3b70,
  VFIO_IOMMU_MAP_DMA: 0x3b71,
  VFIO_IOMMU_UNMAP_DMA: 0x3b72,
  VFIO_IOMMU_DIRTY_PAGES: 0x3b75,
  VFIO_IOMMU_INFO_PGSIZES: 1,
  VFIO_IOMMU_INFO_CAPS: 2,
  VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE: 1,
  VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION: 2,
  VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL: 3,
  VFIO_DMA_MAP_FLAG_READ: 1,
  VFIO_DMA_MAP_FLAG_WRITE: 2,
  VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP: 1,
  VFIO_IOMMU_DIRTY_PAGES_FLAG_START: 1,
  VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP: 2,
  VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP: 4,
} as const;

export const VFIO_IOMMU_TYPE1_INFO = struct(HEADER, 'vfio_iommu_type1_info', 24, {
  argsz: [0, 4],
  flags: [4, 4],
  iova_pgsizes: [8, 8],
  cap_offset: [16, 4],
});

/** `nr_iovas` ranges follow it. */
export const VFIO_CAP_IOVA_RANGE = struct(HEADER, 'vfio_iommu_type1_info_cap_iova_range', 16, { nr_iovas: [8, 4] });

/** `end` is inclusive. */
export const VFIO_IOVA_RANGE = struct(HEADER, 'vfio_iova_range', 16, { start: [0, 8], end: [8, 8] });

export const VFIO_CAP_MIGRATION = struct(HEADER, 'vfio_iommu_type1_info_cap_migration', 32, {
  flags: [8, 4],
  pgsize_bitmap: [16, 8],
  max_dirty_bitmap_size: [24, 8],
});

export const VFIO_CAP_DMA_AVAIL = struct(HEADER, 'vfio_iommu_type1_info_dma_avail', 12, { avail: [8, 4] });

export const VFIO_DMA_MAP = struct(HEADER, 'vfio_iommu_type1_dma_map', 32, {
  argsz: [0, 4],
  flags: [4, 4],
  vaddr: [8, 8],
  iova: [16, 8],
  size: [24, 8],
});

/** `size` is in bytes of the bitmap, `pgsize` in bytes of the page that a bit stands for. */
export const VFIO_BITMAP = struct(HEADER, 'vfio_bitmap', 24, { pgsize: [0, 8], size: [8, 8], data: [16, 8] });

/**
 * The kernel sets `size` to the bytes that were unmapped; a `vfio_bitmap` follows when the dirty bitmap is requested.
 */
export const VFIO_DMA_UNMAP = struct(HEADER, 'vfio_iommu_type1_dma_unmap', 24, {
  argsz: [0, 4],
  flags: [4, 4],
  iova: [8, 8],
  size: [16, 8],
});

/** A `vfio_iommu_type1_dirty_bitmap_get` follows it for GET_BITMAP. */
export const VFIO_DIRTY_BITMAP = struct(HEADER, 'vfio_iommu_type1_dirty_bitmap', 8, { argsz: [0, 4], flags: [4, 4] });

export const VFIO_DIRTY_BITMAP_GET = struct(HEADER, 'vfio_iommu_type1_dirty_bitmap_get', 40, {
  iova: [0, 8],
  size: [8, 8],
  'bitmap.pgsize': [16, 8],
  'bitmap.size': [24, 8],
  'bitmap.data': [32, 8],
});

export const type1Layouts: readonly KernelLayout[] = [
  VFIO_IOMMU_TYPE1_INFO,
  VFIO_CAP_IOVA_RANGE,
  VFIO_IOVA_RANGE,
  VFIO_CAP_MIGRATION,
  VFIO_CAP_DMA_AVAIL,
  VFIO_DMA_MAP,
  VFIO_BITMAP,
  VFIO_DMA_UNMAP,
  VFIO_DIRTY_BITMAP,
  VFIO_DIRTY_BITMAP_GET,
  ...defines(HEADER, Type1),
];
