import { cFunction } from '@godwit/linux/unstable/libc';

/**
 * `memcpy(3)` between addresses of this process, in bytes: no view is made for a page. The ranges do not overlap, and both are mapped.
 */
export const copyMemory = cFunction<[number, number, number], number>('memcpy', 'size_t', [
  'size_t',
  'size_t',
  'size_t',
]);
