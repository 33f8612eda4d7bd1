/**
 * `@godwit/vfio`: containers, devices, address spaces and mappings, trackers of DMA, and devices whose state moves. The kernel's structs
 * and numbers are in `@godwit/vfio/unstable`.
 *
 * @module @godwit/vfio
 */
export { deviceKind, VfioDevice, type VfioDeviceInfo, type VfioRegion } from './device/vfio-device.js';
export { chooseTrackers, type TrackableDevice, type TrackerChoice, trackersOf } from './dirty/choose-trackers.js';
export { DmaLoggingTracker } from './dirty/dma-logging-tracker.js';
export { IommufdTracker } from './dirty/iommufd-tracker.js';
export { StoppedDeviceTracker } from './dirty/stopped-device-tracker.js';
export { type Type1Harvest, VfioType1Tracker } from './dirty/type1-tracker.js';
export type { DmaMapping, DmaSpace, MappingRead, UnmapListener } from './dma-space.js';
export { VfioDeviceNode } from './iommufd/device-node.js';
export { HardwarePagetable } from './iommufd/hardware-pagetable.js';
export { Ioas, type IommufdOwner, type UnmapOptions } from './iommufd/ioas.js';
export { Iommufd } from './iommufd/iommufd.js';
export type { KernelPort } from './kernel-port.js';
export { VfioDeviceSet } from './migration/vfio-device-set.js';
export {
  type DeviceReset,
  VfioMigratableDevice,
  type VfioMigratableDeviceOptions,
} from './migration/vfio-migratable-device.js';
export { type DirtyRate, dirtyRate } from './rx/dirty-rate.js';
export { type DirtySample, type DirtySamplesOptions, dirtySamples } from './rx/dirty-samples.js';
export { type HotRange, type HotRangesOptions, hotRanges } from './rx/hot-ranges.js';
export { type DirtyTrackingSupport, type IovaRange, readType1Info, type Type1Info } from './type1/iommu-info.js';
export {
  type HostMappedMemory,
  type MapMemoryOptions,
  type MapRequest,
  Type1Container,
} from './type1/type1-container.js';
export { iommuGroupOf, VfioGroup } from './type1/vfio-group.js';
