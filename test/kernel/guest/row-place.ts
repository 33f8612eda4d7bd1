import { MapFlags, mmap, munmap, Protection } from '@godwit/linux/unstable';
import { PAGE, PageMemory } from './page-memory.js';

/** Addresses of this process, valid and invalid, to pass to system calls. */
export class RowPlace {
  readonly #bitmap: PageMemory;
  readonly #readOnly = new PageMemory(1, Protection.PROT_READ);
  /** Two pages, of which the second is unmapped. */
  readonly #edge: PageMemory;
  readonly unmapped: bigint;

  constructor(bitmapBytes: number) {
    this.#bitmap = new PageMemory(Math.ceil(bitmapBytes / PAGE));
    this.#edge = new PageMemory(2);
    this.unmapped = this.#edge.address + BigInt(PAGE);
    mmap({
      byteLength: PAGE,
      address: this.unmapped,
      protection: Protection.PROT_NONE,
      flags: MapFlags.MAP_PRIVATE | MapFlags.MAP_ANONYMOUS | MapFlags.MAP_FIXED,
    });
  }

  get bitmap(): bigint {
    return this.#bitmap.address;
  }

  /** The bytes that the kernel wrote to the bitmap buffer. */
  get bytes(): Uint8Array {
    return this.#bitmap.bytes;
  }

  get readOnly(): bigint {
    return this.#readOnly.address;
  }

  readonly cutAfter = (bytes: Uint8Array, readable: number): bigint => {
    this.#edge.bytes.set(bytes.subarray(0, readable), PAGE - readable);
    return this.unmapped - BigInt(readable);
  };

  free(): void {
    this.#bitmap.free();
    this.#readOnly.free();
    munmap(this.#edge.address, 2 * PAGE);
  }
}
