import { defines, type KernelLayout, struct } from '@godwit/linux/unstable';

const HEADER = 'linux/vfio.h';

/**
 * Features of a device in linux/vfio.h: device migration v2 (Linux 5.18; pre-copy 6.2; its flags, "INFOv2", after 6.18), DMA logging
 * (6.1). VFIO_DEVICE_FEATURE and VFIO_IOMMU_DIRTY_PAGES have the same number: the file descriptor decides which of the two a call
 * is.
 */
export const DeviceFeature = {
  VFIO_DEVICE_FEATURE: 0x3b75,
  VFIO_DEVICE_FEATURE_GET: 1 << 16,
  VFIO_DEVICE_FEATURE_SET: 1 << 17,
  VFIO_DEVICE_FEATURE_PROBE: 1 << 18,
  VFIO_DEVICE_FEATURE_MIGRATION: 1,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: 2,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START: 6,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: 7,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: 8,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: 9,
  VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2: 12,
  VFIO_MIGRATION_STOP_COPY: 1,
  VFIO_MIGRATION_P2P: 2,
  VFIO_MIGRATION_PRE_COPY: 4,
  VFIO_MIG_GET_PRECOPY_INFO: 0x3b79,
  VFIO_PRECOPY_INFO_REINIT: 1,
} as const;

/** `enum vfio_device_mig_state`. */
export const MigrationStateNumber = {
  VFIO_DEVICE_STATE_ERROR: 0,
  VFIO_DEVICE_STATE_STOP: 1,
  VFIO_DEVICE_STATE_RUNNING: 2,
  VFIO_DEVICE_STATE_STOP_COPY: 3,
  VFIO_DEVICE_STATE_RESUMING: 4,
  VFIO_DEVICE_STATE_RUNNING_P2P: 5,
  VFIO_DEVICE_STATE_PRE_COPY: 6,
  VFIO_DEVICE_STATE_PRE_COPY_P2P: 7,
} as const;

/** The feature's own struct follows it. */
export const VFIO_DEVICE_FEATURE = struct(HEADER, 'vfio_device_feature', 8, { argsz: [0, 4], flags: [4, 4] });

export const VFIO_FEATURE_MIGRATION = struct(HEADER, 'vfio_device_feature_migration', 8, { flags: [0, 8] });

export const VFIO_FEATURE_MIG_STATE = struct(HEADER, 'vfio_device_feature_mig_state', 8, {
  device_state: [0, 4],
  data_fd: [4, 4],
});

export const VFIO_FEATURE_DMA_LOGGING_CONTROL = struct(HEADER, 'vfio_device_feature_dma_logging_control', 24, {
  page_size: [0, 8],
  num_ranges: [8, 4],
  ranges: [16, 8],
});

export const VFIO_FEATURE_DMA_LOGGING_RANGE = struct(HEADER, 'vfio_device_feature_dma_logging_range', 16, {
  iova: [0, 8],
  length: [8, 8],
});

export const VFIO_FEATURE_DMA_LOGGING_REPORT = struct(HEADER, 'vfio_device_feature_dma_logging_report', 32, {
  iova: [0, 8],
  length: [8, 8],
  page_size: [16, 8],
  bitmap: [24, 8],
});

/** Linux 6.2. */
export const VFIO_FEATURE_MIG_DATA_SIZE = struct(HEADER, 'vfio_device_feature_mig_data_size', 8, {
  stop_copy_length: [0, 8],
});

/**
 * The argument of a call on the data descriptor, in the PRE_COPY states only. Linux 6.2. The kernel does not change `flags`, unless
 * the device was told to fill it in (VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2, a SET without data).
 */
export const VFIO_PRECOPY_INFO = struct(HEADER, 'vfio_precopy_info', 24, {
  argsz: [0, 4],
  flags: [4, 4],
  initial_bytes: [8, 8],
  dirty_bytes: [16, 8],
});

export const deviceFeatureLayouts: readonly KernelLayout[] = [
  VFIO_DEVICE_FEATURE,
  VFIO_FEATURE_MIGRATION,
  VFIO_FEATURE_MIG_STATE,
  VFIO_FEATURE_DMA_LOGGING_CONTROL,
  VFIO_FEATURE_DMA_LOGGING_RANGE,
  VFIO_FEATURE_DMA_LOGGING_REPORT,
  VFIO_FEATURE_MIG_DATA_SIZE,
  VFIO_PRECOPY_INFO,
  ...defines(HEADER, DeviceFeature),
  ...defines(HEADER, MigrationStateNumber),
];
