import { defines, type KernelLayout, struct } from './kernel-layout.js';

const HEADER = 'linux/fs.h';

/** PAGEMAP_SCAN, in linux/fs.h since Linux 6.7, PAGE_IS_ACCESSED since 7.3; Documentation/admin-guide/mm/pagemap.rst. */
export const PagemapScan = {
  PAGEMAP_SCAN: 0xc0606610,
  PM_SCAN_WP_MATCHING: 1,
  PM_SCAN_CHECK_WPASYNC: 2,
  PAGE_IS_WRITTEN: 2,
  PAGE_IS_PRESENT: 1 << 3,
  PAGE_IS_SWAPPED: 1 << 4,
  PAGE_IS_PFNZERO: 1 << 5,
  PAGE_IS_ACCESSED: 1 << 9,
} as const;

/** `struct pm_scan_arg` of linux/fs.h. */
export const PM_SCAN_ARG = struct(HEADER, 'pm_scan_arg', 96, {
  size: [0, 8],
  flags: [8, 8],
  start: [16, 8],
  end: [24, 8],
  walk_end: [32, 8],
  vec: [40, 8],
  vec_len: [48, 8],
  max_pages: [56, 8],
  category_inverted: [64, 8],
  category_mask: [72, 8],
  category_anyof_mask: [80, 8],
  return_mask: [88, 8],
});

/** `end` is exclusive. */
export const PAGE_REGION = struct(HEADER, 'page_region', 24, { start: [0, 8], end: [8, 8], categories: [16, 8] });

export const pagemapScanLayouts: readonly KernelLayout[] = [
  PM_SCAN_ARG,
  PAGE_REGION,
  ...defines(HEADER, { PAGEMAP_SCAN: PagemapScan.PAGEMAP_SCAN }, { argument: 'pm_scan_arg' }),
  ...defines(HEADER, {
    PM_SCAN_WP_MATCHING: PagemapScan.PM_SCAN_WP_MATCHING,
    PM_SCAN_CHECK_WPASYNC: PagemapScan.PM_SCAN_CHECK_WPASYNC,
    PAGE_IS_WRITTEN: PagemapScan.PAGE_IS_WRITTEN,
    PAGE_IS_PRESENT: PagemapScan.PAGE_IS_PRESENT,
    PAGE_IS_SWAPPED: PagemapScan.PAGE_IS_SWAPPED,
    PAGE_IS_PFNZERO: PagemapScan.PAGE_IS_PFNZERO,
    PAGE_IS_ACCESSED: PagemapScan.PAGE_IS_ACCESSED,
  }),
];
