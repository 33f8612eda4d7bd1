export { type AttachableMemory, attachmentOf } from './attachable-memory.js';
export { type IdleThreads, onWorkers } from './on-workers.js';
