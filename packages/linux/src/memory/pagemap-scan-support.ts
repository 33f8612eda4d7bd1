import { GodwitError } from '@godwit/core/errors';
import { PagemapScan, PM_SCAN_ARG } from '../layouts/pagemap-scan.js';
import { StructBuffer } from '../layouts/struct-buffer.js';
import { closeFd, Errno, OpenFlags, openFile, tryIoctl } from '../libc/index.js';

/**
 * Asks for an empty address range: a kernel that knows the request has nothing to do.
 *
 * @throws GodwitError GODWIT_UNSUPPORTED where there is no PAGEMAP_SCAN
 */
export function probePagemapScan(): void {
  const pagemap = openFile('/proc/self/pagemap', OpenFlags.O_RDONLY);
  const argument = new StructBuffer(PM_SCAN_ARG)
    .set('size', PM_SCAN_ARG.size)
    .set('category_mask', PagemapScan.PAGE_IS_WRITTEN)
    .set('return_mask', PagemapScan.PAGE_IS_WRITTEN);
  const result = tryIoctl(pagemap, PagemapScan.PAGEMAP_SCAN, argument.bytes);
  closeFd(pagemap);
  if (result === -Errno.ENOTTY) throw unsupported('the kernel has no PAGEMAP_SCAN; Linux 6.7 has');
  if (result < 0) throw unsupported(`PAGEMAP_SCAN fails with errno ${-result}`);
}

function unsupported(message: string): GodwitError {
  return new GodwitError('GODWIT_UNSUPPORTED', message);
}
