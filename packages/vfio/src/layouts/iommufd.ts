import { defines, type KernelLayout, struct } from '@godwit/linux/unstable';

const HEADER = 'linux/iommufd.h';
const VFIO_HEADER = 'linux/vfio.h';

/** linux/iommufd.h (Linux 6.2; dirty tracking 6.7). The first field of every struct is its size. */
export const IommufdRequest = {
  IOMMU_DESTROY: 0x3b80,
  IOMMU_IOAS_ALLOC: 0x3b81,
  IOMMU_IOAS_IOVA_RANGES: 0x3b84,
  IOMMU_IOAS_MAP: 0x3b85,
  IOMMU_IOAS_UNMAP: 0x3b86,
  IOMMU_HWPT_ALLOC: 0x3b89,
  IOMMU_GET_HW_INFO: 0x3b8a,
  IOMMU_HWPT_SET_DIRTY_TRACKING: 0x3b8b,
  IOMMU_HWPT_GET_DIRTY_BITMAP: 0x3b8c,
} as const;

export const IommufdFlag = {
  IOMMU_IOAS_MAP_FIXED_IOVA: 1,
  IOMMU_IOAS_MAP_WRITEABLE: 2,
  IOMMU_IOAS_MAP_READABLE: 4,
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING: 2,
  IOMMU_HWPT_DATA_NONE: 0,
  IOMMU_HW_CAP_DIRTY_TRACKING: 1,
  IOMMU_HWPT_DIRTY_TRACKING_ENABLE: 1,
  IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR: 1,
} as const;

/** Requests on a VFIO device's own node, /dev/vfio/devices/vfioN (Linux 6.6), that tie it to an iommufd. */
export const DeviceNodeRequest = {
  VFIO_DEVICE_BIND_IOMMUFD: 0x3b76,
  VFIO_DEVICE_ATTACH_IOMMUFD_PT: 0x3b77,
  VFIO_DEVICE_DETACH_IOMMUFD_PT: 0x3b78,
} as const;

export const IOMMU_DESTROY = struct(HEADER, 'iommu_destroy', 8, { size: [0, 4], id: [4, 4] });

export const IOMMU_IOAS_ALLOC = struct(HEADER, 'iommu_ioas_alloc', 12, {
  size: [0, 4],
  flags: [4, 4],
  out_ioas_id: [8, 4],
});

export const IOMMU_IOAS_IOVA_RANGES = struct(HEADER, 'iommu_ioas_iova_ranges', 32, {
  size: [0, 4],
  ioas_id: [4, 4],
  num_iovas: [8, 4],
  allowed_iovas: [16, 8],
  out_iova_alignment: [24, 8],
});

export const IOMMU_IOAS_MAP = struct(HEADER, 'iommu_ioas_map', 40, {
  size: [0, 4],
  flags: [4, 4],
  ioas_id: [8, 4],
  user_va: [16, 8],
  length: [24, 8],
  iova: [32, 8],
});

export const IOMMU_IOAS_UNMAP = struct(HEADER, 'iommu_ioas_unmap', 24, {
  size: [0, 4],
  ioas_id: [4, 4],
  iova: [8, 8],
  length: [16, 8],
});

export const IOMMU_HWPT_ALLOC = struct(
  HEADER,
  'iommu_hwpt_alloc',
  48,
  {
    size: [0, 4],
    flags: [4, 4],
    dev_id: [8, 4],
    pt_id: [12, 4],
    out_hwpt_id: [16, 4],
    data_type: [24, 4],
    data_len: [28, 4],
    data_uptr: [32, 8],
  },
  { grows: true },
);

export const IOMMU_HW_INFO = struct(
  HEADER,
  'iommu_hw_info',
  40,
  {
    size: [0, 4],
    flags: [4, 4],
    dev_id: [8, 4],
    data_len: [12, 4],
    data_uptr: [16, 8],
    out_data_type: [24, 4],
    out_capabilities: [32, 8],
  },
  { grows: true },
);

export const IOMMU_HWPT_SET_DIRTY_TRACKING = struct(HEADER, 'iommu_hwpt_set_dirty_tracking', 16, {
  size: [0, 4],
  flags: [4, 4],
  hwpt_id: [8, 4],
});

export const IOMMU_HWPT_GET_DIRTY_BITMAP = struct(HEADER, 'iommu_hwpt_get_dirty_bitmap', 48, {
  size: [0, 4],
  hwpt_id: [4, 4],
  flags: [8, 4],
  iova: [16, 8],
  length: [24, 8],
  page_size: [32, 8],
  data: [40, 8],
});

export const VFIO_DEVICE_BIND_IOMMUFD = struct(VFIO_HEADER, 'vfio_device_bind_iommufd', 16, {
  argsz: [0, 4],
  flags: [4, 4],
  iommufd: [8, 4],
  out_devid: [12, 4],
});

export const VFIO_DEVICE_ATTACH_IOMMUFD_PT = struct(VFIO_HEADER, 'vfio_device_attach_iommufd_pt', 12, {
  argsz: [0, 4],
  flags: [4, 4],
  pt_id: [8, 4],
});

export const VFIO_DEVICE_DETACH_IOMMUFD_PT = struct(VFIO_HEADER, 'vfio_device_detach_iommufd_pt', 8, {
  argsz: [0, 4],
  flags: [4, 4],
});

export const iommufdLayouts: readonly KernelLayout[] = [
  IOMMU_DESTROY,
  IOMMU_IOAS_ALLOC,
  IOMMU_IOAS_IOVA_RANGES,
  IOMMU_IOAS_MAP,
  IOMMU_IOAS_UNMAP,
  IOMMU_HWPT_ALLOC,
  IOMMU_HW_INFO,
  IOMMU_HWPT_SET_DIRTY_TRACKING,
  IOMMU_HWPT_GET_DIRTY_BITMAP,
  VFIO_DEVICE_BIND_IOMMUFD,
  VFIO_DEVICE_ATTACH_IOMMUFD_PT,
  VFIO_DEVICE_DETACH_IOMMUFD_PT,
  ...defines(HEADER, IommufdRequest),
  ...defines(HEADER, IommufdFlag),
  ...defines(VFIO_HEADER, DeviceNodeRequest),
];
