import { defines, type KernelLayout, struct } from './kernel-layout.js';

const HEADER = 'linux/userfaultfd.h';

/** Requests, modes and events of linux/userfaultfd.h. WP_ASYNC is there since Linux 6.7. */
export const Uffd = {
  USERFAULTFD_IOC_NEW: 0xaa00,
  UFFD_API: 0xaa,
  UFFDIO_REGISTER_MODE_MISSING: 1,
  UFFDIO_REGISTER_MODE_WP: 2,
  UFFDIO_REGISTER_MODE_MINOR: 4,
  UFFD_FEATURE_PAGEFAULT_FLAG_WP: 1 << 0,
  UFFD_FEATURE_MISSING_SHMEM: 1 << 5,
  UFFD_FEATURE_MINOR_SHMEM: 1 << 10,
  UFFD_FEATURE_WP_HUGETLBFS_SHMEM: 1 << 12,
  UFFD_FEATURE_WP_UNPOPULATED: 1 << 13,
  UFFD_FEATURE_WP_ASYNC: 1 << 15,
} as const;

export const UFFDIO_API = struct(HEADER, 'uffdio_api', 24, { api: [0, 8], features: [8, 8], ioctls: [16, 8] });

export const UFFDIO_RANGE = struct(HEADER, 'uffdio_range', 16, { start: [0, 8], len: [8, 8] });

export const UFFDIO_REGISTER = struct(HEADER, 'uffdio_register', 32, {
  'range.start': [0, 8],
  'range.len': [8, 8],
  mode: [16, 8],
  ioctls: [24, 8],
});

/** ioctl requests; the struct that each carries is named in `userfaultfdLayouts`. */
export const UffdRequest = {
  UFFDIO_API: 0xc018aa3f,
  UFFDIO_REGISTER: 0xc020aa00,
  UFFDIO_UNREGISTER: 0x8010aa01,
} as const;

export const userfaultfdLayouts: readonly KernelLayout[] = [
  UFFDIO_API,
  UFFDIO_RANGE,
  UFFDIO_REGISTER,
  ...defines(HEADER, { UFFDIO_API: UffdRequest.UFFDIO_API }, { argument: 'uffdio_api' }),
  ...defines(HEADER, { UFFDIO_REGISTER: UffdRequest.UFFDIO_REGISTER }, { argument: 'uffdio_register' }),
  ...defines(HEADER, { UFFDIO_UNREGISTER: UffdRequest.UFFDIO_UNREGISTER }, { argument: 'uffdio_range' }),
  ...defines(HEADER, Uffd),
];
