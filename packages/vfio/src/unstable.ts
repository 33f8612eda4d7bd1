/**
 * `@godwit/vfio/unstable`: the structs and numbers of linux/vfio.h and linux/iommufd.h, and the internal parts of this package that use
 * them. **Everything here may change in any version.**
 */
export { LONGEST_WAIT_MS } from './address-space.js';
export { type FeatureOperation, probeFeature } from './device/device-feature.js';
export { MappingTranslation, type RamSegment, ramSegments } from './dirty/iova-translation.js';
export { isLogged, type LoggedRange, loggedRanges, MOST_RANGES } from './dirty/logged-ranges.js';
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
export { type Capability, capabilityChain } from './type1/capability-chain.js';
export { parseType1Info } from './type1/iommu-info.js';
export { largestMapping, mappingPieces, type Piece } from './type1/mapping-pieces.js';
export { Type1DirtyLog } from './type1/type1-dirty-log.js';
