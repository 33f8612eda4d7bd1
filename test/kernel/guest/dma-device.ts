import { tryIoctl } from '@godwit/linux/unstable';
import { u64, withAddress } from './vfio-calls.js';

/** godwit_dma.h: `_IOW('G', n, struct)`; the size of the struct is in bits 16 to 29. */
const GODWIT_DMA_RW_WRITE = 0x4018_47d0;
const GODWIT_DMA_RW_READ = 0x4018_47d1;
const GODWIT_DMA_PIN = 0x4010_47d2;
const GODWIT_DMA_UNPIN = 0x4010_47d3;
const GODWIT_DMA_PINNED_WRITE = 0x4018_47d4;

/**
 * The test device, test/kernel/module/godwit_dma.h: writes guest memory on command. Calls return 0 or minus errno.
 *
 * @param fd its VFIO device file; stays the caller's
 */
export class DmaDevice {
  readonly fd: number;

  constructor(fd: number) {
    this.fd = fd;
  }

  /** Writes through vfio_dma_rw, which makes each written page dirty once. */
  write(iova: number | bigint, bytes: Uint8Array): number {
    return this.#transfer(GODWIT_DMA_RW_WRITE, iova, bytes);
  }

  /** Reads through vfio_dma_rw. */
  read(iova: number | bigint, bytes: Uint8Array): number {
    return this.#transfer(GODWIT_DMA_RW_READ, iova, bytes);
  }

  /** Pins whole pages, at most 512. Pages are dirty for as long as they are pinned. */
  pin(iova: number | bigint, pages: number): number {
    return tryIoctl(this.fd, GODWIT_DMA_PIN, u64(iova, pages));
  }

  unpin(iova: number | bigint, pages: number): number {
    return tryIoctl(this.fd, GODWIT_DMA_UNPIN, u64(iova, pages));
  }

  /** Writes to pinned pages without the kernel's knowledge, as a bus master does. */
  writePinned(iova: number | bigint, bytes: Uint8Array): number {
    return this.#transfer(GODWIT_DMA_PINNED_WRITE, iova, bytes);
  }

  #transfer(request: number, iova: number | bigint, bytes: Uint8Array): number {
    return withAddress(bytes, (data) => tryIoctl(this.fd, request, u64(iova, bytes.byteLength, data)));
  }
}
