/**
 * Raw names that programs still import from `@godwit/linux`. They are those of `@godwit/linux/unstable`, where new programs take them
 * from, and may change in any version too. No name is added to this list.
 */
export { KVM_DIRTY_LOG } from './layouts/kvm-dirty-log.js';
export { PagemapScan, PM_SCAN_ARG } from './layouts/pagemap-scan.js';
export { StructBuffer } from './layouts/struct-buffer.js';
export { Uffd } from './layouts/userfaultfd.js';
export { Errno } from './libc/errno.js';
export { closeFd, eventfd, openFile, readFd } from './libc/file-descriptor.js';
export { tryIoctl, tryIoctlAsync } from './libc/ioctl.js';
export { addressOf, MemoryAdvice, madvise, mmap, viewOf } from './libc/mapping.js';
export { ftruncate, memfdCreate } from './libc/memory-file.js';
export { yieldProcessor } from './libc/scheduler.js';
export { setBlocking, setReceiveTimeout } from './libc/socket.js';
