export { type AttachableMemory, attachmentOf } from './attachable-memory.js';
export { type ListenerThreads, onWorkers } from './on-workers.js';
