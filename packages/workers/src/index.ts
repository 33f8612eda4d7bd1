/**
 * `@godwit/workers`: page channels and page faults on worker threads.
 *
 * @module @godwit/workers
 */
export { type AttachableMemory, attachmentOf } from './attachable-memory.js';
export { ChannelThreads, type ChannelThreadsOptions, channelThreads } from './channel-threads.js';
export { FaultThreads, faultThreads } from './missing/fault-threads.js';
export { type IdleThreads, onWorkers, pageChannelsFor } from './on-workers.js';
export { type WriteProtectionOptions, WriteProtectionThreads, writeProtection } from './protect/write-protection.js';
