import { defines, type KernelLayout, struct } from './kernel-layout.js';

const HEADER = 'linux/userfaultfd.h';

/** Modes, features and events of linux/userfaultfd.h. WP_ASYNC is there since Linux 6.7, MOVE since 6.8, RWP since 7.3. */
export const Uffd = {
  USERFAULTFD_IOC_NEW: 0xaa00,
  UFFD_API: 0xaa,
  UFFDIO_REGISTER_MODE_MISSING: 1,
  UFFDIO_REGISTER_MODE_WP: 2,
  UFFDIO_REGISTER_MODE_MINOR: 4,
  UFFDIO_REGISTER_MODE_RWP: 8,
  UFFD_FEATURE_PAGEFAULT_FLAG_WP: 1 << 0,
  UFFD_FEATURE_EVENT_FORK: 1 << 1,
  UFFD_FEATURE_EVENT_REMAP: 1 << 2,
  UFFD_FEATURE_EVENT_REMOVE: 1 << 3,
  UFFD_FEATURE_MISSING_HUGETLBFS: 1 << 4,
  UFFD_FEATURE_MISSING_SHMEM: 1 << 5,
  UFFD_FEATURE_EVENT_UNMAP: 1 << 6,
  UFFD_FEATURE_SIGBUS: 1 << 7,
  UFFD_FEATURE_THREAD_ID: 1 << 8,
  UFFD_FEATURE_MINOR_HUGETLBFS: 1 << 9,
  UFFD_FEATURE_MINOR_SHMEM: 1 << 10,
  UFFD_FEATURE_EXACT_ADDRESS: 1 << 11,
  UFFD_FEATURE_WP_HUGETLBFS_SHMEM: 1 << 12,
  UFFD_FEATURE_WP_UNPOPULATED: 1 << 13,
  UFFD_FEATURE_POISON: 1 << 14,
  UFFD_FEATURE_WP_ASYNC: 1 << 15,
  UFFD_FEATURE_MOVE: 1 << 16,
  UFFD_FEATURE_RWP: 1 << 17,
  UFFD_FEATURE_RWP_ASYNC: 1 << 18,
  UFFDIO_COPY_MODE_DONTWAKE: 1,
  UFFDIO_COPY_MODE_WP: 2,
  UFFDIO_ZEROPAGE_MODE_DONTWAKE: 1,
  UFFDIO_WRITEPROTECT_MODE_WP: 1,
  UFFDIO_WRITEPROTECT_MODE_DONTWAKE: 2,
  UFFDIO_CONTINUE_MODE_DONTWAKE: 1,
  UFFDIO_CONTINUE_MODE_WP: 2,
  UFFDIO_POISON_MODE_DONTWAKE: 1,
  UFFDIO_RWPROTECT_MODE_RWP: 1,
  UFFDIO_RWPROTECT_MODE_DONTWAKE: 2,
  UFFD_EVENT_PAGEFAULT: 0x12,
  UFFD_EVENT_FORK: 0x13,
  UFFD_EVENT_REMAP: 0x14,
  UFFD_EVENT_REMOVE: 0x15,
  UFFD_EVENT_UNMAP: 0x16,
  UFFD_PAGEFAULT_FLAG_WRITE: 1,
  UFFD_PAGEFAULT_FLAG_WP: 2,
  UFFD_PAGEFAULT_FLAG_MINOR: 4,
} as const;

export const UFFDIO_API = struct(HEADER, 'uffdio_api', 24, { api: [0, 8], features: [8, 8], ioctls: [16, 8] });

export const UFFDIO_RANGE = struct(HEADER, 'uffdio_range', 16, { start: [0, 8], len: [8, 8] });

export const UFFDIO_REGISTER = struct(HEADER, 'uffdio_register', 32, {
  'range.start': [0, 8],
  'range.len': [8, 8],
  mode: [16, 8],
  ioctls: [24, 8],
});

/** `copy`: bytes done, or minus errno. */
export const UFFDIO_COPY = struct(HEADER, 'uffdio_copy', 40, {
  dst: [0, 8],
  src: [8, 8],
  len: [16, 8],
  mode: [24, 8],
  copy: [32, 8],
});

/** `zeropage`, and `mapped` and `updated` of those that follow, are like `copy`. */
export const UFFDIO_ZEROPAGE = struct(HEADER, 'uffdio_zeropage', 32, {
  'range.start': [0, 8],
  'range.len': [8, 8],
  mode: [16, 8],
  zeropage: [24, 8],
});

export const UFFDIO_CONTINUE = struct(HEADER, 'uffdio_continue', 32, {
  'range.start': [0, 8],
  'range.len': [8, 8],
  mode: [16, 8],
  mapped: [24, 8],
});

export const UFFDIO_POISON = struct(HEADER, 'uffdio_poison', 32, {
  'range.start': [0, 8],
  'range.len': [8, 8],
  mode: [16, 8],
  updated: [24, 8],
});

/** The request is done completely or not at all. */
export const UFFDIO_WRITEPROTECT = struct(HEADER, 'uffdio_writeprotect', 24, {
  'range.start': [0, 8],
  'range.len': [8, 8],
  mode: [16, 8],
});

/** As UFFDIO_WRITEPROTECT: all or nothing. */
export const UFFDIO_RWPROTECT = struct(HEADER, 'uffdio_rwprotect', 24, {
  'range.start': [0, 8],
  'range.len': [8, 8],
  mode: [16, 8],
});

/** A message that `read` on a userfaultfd returns; `event` says which part of the union is valid. */
export const UFFD_MSG = struct(HEADER, 'uffd_msg', 32, {
  event: [0, 1],
  'arg.pagefault.flags': [8, 8],
  'arg.pagefault.address': [16, 8],
  'arg.pagefault.feat.ptid': [24, 4],
  'arg.fork.ufd': [8, 4],
  'arg.remap.from': [8, 8],
  'arg.remap.to': [16, 8],
  'arg.remap.len': [24, 8],
  'arg.remove.start': [8, 8],
  'arg.remove.end': [16, 8],
});

/** ioctl requests; `userfaultfdLayouts` has the struct of each. */
export const UffdRequest = {
  UFFDIO_API: 0xc018aa3f,
  UFFDIO_REGISTER: 0xc020aa00,
  UFFDIO_UNREGISTER: 0x8010aa01,
  UFFDIO_WAKE: 0x8010aa02,
  UFFDIO_COPY: 0xc028aa03,
  UFFDIO_ZEROPAGE: 0xc020aa04,
  UFFDIO_WRITEPROTECT: 0xc018aa06,
  UFFDIO_CONTINUE: 0xc020aa07,
  UFFDIO_POISON: 0xc020aa08,
  UFFDIO_RWPROTECT: 0xc018aa09,
} as const;

const ARGUMENTS = {
  UFFDIO_API: 'uffdio_api',
  UFFDIO_REGISTER: 'uffdio_register',
  UFFDIO_UNREGISTER: 'uffdio_range',
  UFFDIO_WAKE: 'uffdio_range',
  UFFDIO_COPY: 'uffdio_copy',
  UFFDIO_ZEROPAGE: 'uffdio_zeropage',
  UFFDIO_WRITEPROTECT: 'uffdio_writeprotect',
  UFFDIO_CONTINUE: 'uffdio_continue',
  UFFDIO_POISON: 'uffdio_poison',
  UFFDIO_RWPROTECT: 'uffdio_rwprotect',
} as const satisfies Record<keyof typeof UffdRequest, string>;

/**
 * Bits of `uffdio_register.ioctls`: the operations that are possible on the pages of a registered range. A bit's number is the last
 * byte of the request's number (`_UFFDIO_...`).
 */
export const UffdRangeOperation = {
  _UFFDIO_WAKE: 2,
  _UFFDIO_COPY: 3,
  _UFFDIO_ZEROPAGE: 4,
  _UFFDIO_WRITEPROTECT: 6,
  _UFFDIO_CONTINUE: 7,
  _UFFDIO_POISON: 8,
  _UFFDIO_RWPROTECT: 9,
} as const;

export const userfaultfdLayouts: readonly KernelLayout[] = [
  UFFDIO_API,
  UFFDIO_RANGE,
  UFFDIO_REGISTER,
  UFFDIO_COPY,
  UFFDIO_ZEROPAGE,
  UFFDIO_CONTINUE,
  UFFDIO_POISON,
  UFFDIO_WRITEPROTECT,
  UFFDIO_RWPROTECT,
  UFFD_MSG,
  ...Object.entries(UffdRequest).flatMap(([name, request]) =>
    defines(HEADER, { [name]: request }, { argument: ARGUMENTS[name as keyof typeof ARGUMENTS] }),
  ),
  ...defines(HEADER, UffdRangeOperation),
  ...defines(HEADER, Uffd),
];
