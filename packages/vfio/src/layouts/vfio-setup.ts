import { defines, type KernelLayout, struct } from '@godwit/linux/unstable';

const HEADER = 'linux/vfio.h';

/**
 * Containers, groups and devices in linux/vfio.h. All requests are `_IO(VFIO_TYPE, VFIO_BASE + n)`: VFIO's numbers carry
 * no size and no direction, the structs carry their own size in `argsz`.
 */
export const Vfio = {
  VFIO_API_VERSION: 0,
  VFIO_TYPE1_IOMMU: 1,
  VFIO_TYPE1v2_IOMMU: 3,
  VFIO_UNMAP_ALL: 9,
  VFIO_GET_API_VERSION: 0x3b64,
  VFIO_CHECK_EXTENSION: 0x3b65,
  VFIO_SET_IOMMU: 0x3b66,
  VFIO_GROUP_GET_STATUS: 0x3b67,
  VFIO_GROUP_SET_CONTAINER: 0x3b68,
  VFIO_GROUP_UNSET_CONTAINER: 0x3b69,
  VFIO_GROUP_GET_DEVICE_FD: 0x3b6a,
  VFIO_DEVICE_GET_INFO: 0x3b6b,
  VFIO_DEVICE_GET_REGION_INFO: 0x3b6c,
  VFIO_DEVICE_RESET: 0x3b6f,
  VFIO_GROUP_FLAGS_VIABLE: 1,
  VFIO_GROUP_FLAGS_CONTAINER_SET: 2,
  VFIO_DEVICE_FLAGS_RESET: 1,
  VFIO_DEVICE_FLAGS_PCI: 2,
  VFIO_REGION_INFO_FLAG_READ: 1,
  VFIO_REGION_INFO_FLAG_WRITE: 2,
  VFIO_REGION_INFO_FLAG_MMAP: 4,
} as const;

/** Every capability of a chain begins with it; `next` counts from the start of the whole buffer, 0 ends the chain. */
export const VFIO_INFO_CAP_HEADER = struct(HEADER, 'vfio_info_cap_header', 8, {
  id: [0, 2],
  version: [2, 2],
  next: [4, 4],
});

export const VFIO_GROUP_STATUS = struct(HEADER, 'vfio_group_status', 8, { argsz: [0, 4], flags: [4, 4] });

/** Every kernel has the fields up to `num_irqs`: 16 bytes, the smallest `argsz`; `cap_offset` exists since Linux 5.4. */
export const VFIO_DEVICE_INFO = struct(
  HEADER,
  'vfio_device_info',
  24,
  {
    argsz: [0, 4],
    flags: [4, 4],
    num_regions: [8, 4],
    num_irqs: [12, 4],
    cap_offset: [16, 4],
  },
  { grows: true },
);

export const VFIO_REGION_INFO = struct(HEADER, 'vfio_region_info', 32, {
  argsz: [0, 4],
  flags: [4, 4],
  index: [8, 4],
  cap_offset: [12, 4],
  size: [16, 8],
  offset: [24, 8],
});

export const vfioSetupLayouts: readonly KernelLayout[] = [
  VFIO_INFO_CAP_HEADER,
  VFIO_GROUP_STATUS,
  VFIO_DEVICE_INFO,
  VFIO_REGION_INFO,
  ...defines(HEADER, Vfio),
];
