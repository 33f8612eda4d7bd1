export { type KvmDirtyLogMode, type KvmDirtyLogOptions, KvmDirtyLogTracker, type KvmSlot } from './kvm-dirty-log.js';
export { PagemapTracker, type PagemapTrackerOptions, type TrackedRange } from './pagemap-tracker.js';
