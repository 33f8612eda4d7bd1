export { type BufferBlock, BufferMemory } from './buffer-memory.js';
export { type DeviceFaults, FaultyDevice } from './faulty-device.js';
export { FaultyTracker, type TrackerFaults } from './faulty-tracker.js';
export { type FrameTap, memoryLink, type MemoryLinkOptions } from './memory-link.js';
export { ToyVm } from './toy-vm.js';
