export * from './libc/index.js';
export * from './kvm/index.js';
