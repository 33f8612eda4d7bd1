import { readBzImage } from './bz-image.js';
import { isElf, readElfImage } from './elf-image.js';
import type { KernelImage } from './kernel-image.js';

/**
 * Reads a bzImage or a vmlinux.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT when it is neither, or cannot be booted
 */
export function readKernel(file: Uint8Array): KernelImage {
  return isElf(file) ? readElfImage(file) : readBzImage(file);
}
