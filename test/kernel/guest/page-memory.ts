import { MapFlags, mmap, munmap, Protection, viewOf } from '@godwit/linux/unstable';

export const PAGE = 4096;

/** Pages of this process: guest memory for a container, or a bitmap at an address that the kernel cannot write to. */
export class PageMemory {
  readonly address: bigint;
  readonly byteLength: number;
  readonly bytes: Uint8Array;

  constructor(pages: number, protection: number = Protection.PROT_READ | Protection.PROT_WRITE) {
    this.byteLength = pages * PAGE;
    this.address = mmap({
      byteLength: this.byteLength,
      protection,
      flags: MapFlags.MAP_PRIVATE | MapFlags.MAP_ANONYMOUS | MapFlags.MAP_NORESERVE,
    });
    this.bytes = viewOf(this.address, this.byteLength);
  }

  page(index: number): Uint8Array {
    return this.bytes.subarray(index * PAGE, (index + 1) * PAGE);
  }

  /** Unmaps the pages; the view must not be used afterwards. */
  free(): void {
    munmap(this.address, this.byteLength);
  }
}
