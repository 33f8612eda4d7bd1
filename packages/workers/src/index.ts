export { type AttachableMemory, attachmentOf } from './attachable-memory.js';
export { FaultThreads, faultThreads } from './missing/fault-threads.js';
export { type IdleThreads, onWorkers } from './on-workers.js';
