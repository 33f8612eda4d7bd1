/** Numbers of the virtio specification, version 1.2: the sections are named beside them. */

/** Offsets of the registers of the MMIO transport, version 2 (4.2.2). Each is 32 bits, little-endian. */
export const MmioRegister = {
  magic: 0x000,
  version: 0x004,
  deviceType: 0x008,
  vendor: 0x00c,
  deviceFeatures: 0x010,
  deviceFeaturesSelect: 0x014,
  driverFeatures: 0x020,
  driverFeaturesSelect: 0x024,
  queueSelect: 0x030,
  queueSizeMaximum: 0x034,
  queueSize: 0x038,
  queueReady: 0x044,
  queueNotify: 0x050,
  interruptStatus: 0x060,
  interruptAcknowledge: 0x064,
  status: 0x070,
  queueDescriptorLow: 0x080,
  queueDescriptorHigh: 0x084,
  queueDriverLow: 0x090,
  queueDriverHigh: 0x094,
  queueDeviceLow: 0x0a0,
  queueDeviceHigh: 0x0a4,
  /** The shared memory regions; no device here has one. */
  sharedMemoryLengthLow: 0x0b0,
  sharedMemoryBaseHigh: 0x0bc,
  configGeneration: 0x0fc,
  config: 0x100,
} as const;

/** "virt". */
export const MMIO_MAGIC = 0x7472_6976;
export const MMIO_VERSION = 2;
/** "GDWT". */
export const MMIO_VENDOR = 0x5457_4447;

/** Bits of the device status (2.1). */
export const DeviceStatus = {
  acknowledge: 0x01,
  driver: 0x02,
  driverOk: 0x04,
  featuresOk: 0x08,
  needsReset: 0x40,
  failed: 0x80,
} as const;

export const KNOWN_STATUS = Object.values(DeviceStatus).reduce((all, bit) => all | bit, 0);

/** Bits of the interrupt status (4.2.2): a buffer was used; the configuration or the device status has changed. */
export const InterruptBit = { usedBuffer: 0x1, configuration: 0x2 } as const;

/** Types of devices (5). */
export const DeviceType = { net: 1, block: 2, console: 3, rng: 4, balloon: 5 } as const;

/** VIRTIO_F_VERSION_1 (6): every device here offers it, and refuses a driver without it. */
export const FEATURE_VERSION_1 = 1n << 32n;

/** Flags of a descriptor (2.7.5). */
export const DescriptorFlag = { next: 0x1, write: 0x2, indirect: 0x4 } as const;
