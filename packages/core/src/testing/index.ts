/**
 * `@godwit/core/testing`: the suite that every encoding passes, and parts for tests of VMMs, devices and trackers.
 *
 * @module @godwit/core/testing
 */
export { VirtualClock } from '../simulation/virtual-clock.js';
export { type BufferBlock, BufferMemory } from './buffer-memory.js';
export { vectorOf } from './encoding-ends.js';
export type { EncodingFixture, EncodingVector, SuiteRunner } from './encoding-fixture.js';
export { encodingSuite } from './encoding-suite.js';
/** @internal Parts of the engine, for its own tests. */
export * as engineParts from './engine-parts.js';
export { type DeviceFaults, FaultyDevice } from './faulty-device.js';
export { FaultyTracker, type TrackerFaults } from './faulty-tracker.js';
export { ManualTracker } from './manual-tracker.js';
export { type FrameTap, type MemoryLink, type MemoryLinkOptions, memoryLink } from './memory-link.js';
export { ToyFaultService, ToyMissing } from './toy-fault-service.js';
export { ToyVm, type ToyVmOptions, type WriteLog } from './toy-vm.js';
