import { MapFlags, mmap, munmap, Protection } from '@godwit/linux/unstable';
import { PAGE, PageMemory } from './page-memory.js';

/** Addresses of this process that a system call can be given, good ones and bad ones. */
export class RowPlace {
  readonly #bitmap: PageMemory;
  readonly #readOnly = new PageMemory(1, Protection.PROT_READ);
  /** Two pages, of which the second is gone. */
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

  /** What the kernel wrote there. */
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
