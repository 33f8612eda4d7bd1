export { LONGEST_WAIT_MS } from './address-space.js';
export { type FeatureOperation, probeFeature } from './device/device-feature.js';
export { deviceKind, VfioDevice, type VfioDeviceInfo, type VfioRegion } from './device/vfio-device.js';
export { chooseTrackers, type TrackableDevice, type TrackerChoice, trackersOf } from './dirty/choose-trackers.js';
export { DmaLoggingTracker } from './dirty/dma-logging-tracker.js';
export { IommufdTracker } from './dirty/iommufd-tracker.js';
export { MappingTranslation, type RamSegment, ramSegments } from './dirty/iova-translation.js';
export { isLogged, type LoggedRange, loggedRanges, MOST_RANGES } from './dirty/logged-ranges.js';
export { StoppedDeviceTracker } from './dirty/stopped-device-tracker.js';
export { type Type1Harvest, VfioType1Tracker } from './dirty/type1-tracker.js';
export type { DmaMapping, DmaSpace, MappingRead, UnmapListener } from './dma-space.js';
export { VfioDeviceNode } from './iommufd/device-node.js';
export { HardwarePagetable } from './iommufd/hardware-pagetable.js';
export { Ioas, type IommufdOwner, type UnmapOptions } from './iommufd/ioas.js';
export { Iommufd } from './iommufd/iommufd.js';
export { type KernelPort, linuxKernel } from './kernel-port.js';
export * from './layouts/index.js';
export { DeviceMigration, type PrecopyInfo } from './migration/device-migration.js';
export {
  hasState,
  isSaving,
  MIGRATION_STATES,
  type MigrationCapabilities,
  type MigrationState,
  migrationPath,
  STATE_NUMBER,
  stateOf,
} from './migration/migration-state.js';
export { STATE_VERSION, StateHeaderReader, stateHeader } from './migration/state-header.js';
export { VfioDeviceSet } from './migration/vfio-device-set.js';
export {
  type DeviceReset,
  VfioMigratableDevice,
  type VfioMigratableDeviceOptions,
} from './migration/vfio-migratable-device.js';
export { type DirtyRate, dirtyRate } from './rx/dirty-rate.js';
export { type DirtySample, type DirtySamplesOptions, dirtySamples } from './rx/dirty-samples.js';
export { type HotRange, type HotRangesOptions, hotRanges } from './rx/hot-ranges.js';
export { type Capability, capabilityChain } from './type1/capability-chain.js';
export {
  type DirtyTrackingSupport,
  type IovaRange,
  parseType1Info,
  readType1Info,
  type Type1Info,
} from './type1/iommu-info.js';
export { largestMapping, mappingPieces, type Piece } from './type1/mapping-pieces.js';
export {
  type HostMappedMemory,
  type MapMemoryOptions,
  type MapRequest,
  Type1Container,
} from './type1/type1-container.js';
export { Type1DirtyLog } from './type1/type1-dirty-log.js';
export { iommuGroupOf, VfioGroup } from './type1/vfio-group.js';
