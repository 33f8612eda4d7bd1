export { type KvmDirtyLogMode, type KvmDirtyLogOptions, KvmDirtyLogTracker } from './kvm-dirty-log.js';
export { type KvmDirtyRingOptions, KvmDirtyRingTracker } from './kvm-dirty-ring.js';
export type { KvmSlot } from './kvm-rearm.js';
export { PagemapTracker, type PagemapTrackerOptions, type TrackedRange } from './pagemap-tracker.js';
