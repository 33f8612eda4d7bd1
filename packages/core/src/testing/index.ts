export { VirtualClock } from '../simulation/virtual-clock.js';
export { type BufferBlock, BufferMemory } from './buffer-memory.js';
export * as engineParts from './engine-parts.js';
export { type DeviceFaults, FaultyDevice } from './faulty-device.js';
export { FaultyTracker, type TrackerFaults } from './faulty-tracker.js';
export { ManualTracker } from './manual-tracker.js';
export { type FrameTap, type MemoryLink, type MemoryLinkOptions, memoryLink } from './memory-link.js';
export { ToyFaultService, ToyMissing } from './toy-fault-service.js';
export { ToyVm, type ToyVmOptions, type WriteLog } from './toy-vm.js';
