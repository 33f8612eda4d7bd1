export { type HostSupport, hostSupport, type Support } from './host-support.js';
export * from './kvm/index.js';
export * from './layouts/index.js';
export * from './libc/index.js';
export * from './memory/index.js';
export * from './trackers/index.js';
export * from './userfaultfd/index.js';
