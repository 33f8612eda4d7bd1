export { AccessTracker } from './access-tracker.js';
export { type KvmDirtyLogMode, type KvmDirtyLogOptions, KvmDirtyLogTracker } from './kvm-dirty-log.js';
export { type KvmDirtyRingOptions, KvmDirtyRingTracker } from './kvm-dirty-ring.js';
export type { KvmSlot } from './kvm-rearm.js';
export { PagemapTracker } from './pagemap-tracker.js';
export type { PagemapTrackerOptions, TrackedRange } from './pagemap-walk.js';
