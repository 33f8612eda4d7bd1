/** Guest RAM as 32-bit words, in windows that are made once, so that no object is allocated for each page. */

// Looked up once: these are on the path of every page.
const { floor, max, min } = Math;

/** Guest memory by guest-physical address, as the guest's modules need it. Requests never cross a multiple of 1 GiB. */
export interface GuestRam {
  /** The guest's own bytes, never a copy. */
  view(guestPhysicalAddress: number, length: number): Uint8Array;
}

const WINDOW_BYTES = 16 * 1024 * 1024;

/** A page-aligned range of guest RAM as windows of words: `windowOf(address)[wordOf(address)]` is the u32 at `address`. */
export class WordRange {
  readonly #address: number;
  readonly #firstWindow: number;
  readonly #windows: Uint32Array[] = [];

  constructor(ram: GuestRam, address: number, byteLength: number) {
    this.#address = address;
    this.#firstWindow = floor(address / WINDOW_BYTES);
    // Windows end at multiples of 16 MiB, therefore none crosses a multiple of 1 GiB.
    for (let start = address; start < address + byteLength; ) {
      const end = min(address + byteLength, (floor(start / WINDOW_BYTES) + 1) * WINDOW_BYTES);
      const bytes = ram.view(start, end - start);
      this.#windows.push(new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4));
      start = end;
    }
  }

  windowOf(address: number): Uint32Array {
    const window = this.#windows[floor(address / WINDOW_BYTES) - this.#firstWindow];
    if (window === undefined) throw new RangeError(`0x${address.toString(16)} is outside the range`);
    return window;
  }

  wordOf(address: number): number {
    const windowStart = floor(address / WINDOW_BYTES) * WINDOW_BYTES;
    return (address - max(windowStart, this.#address)) / 4;
  }

  get(address: number): number {
    return this.windowOf(address)[this.wordOf(address)] ?? 0;
  }

  set(address: number, value: number): void {
    this.windowOf(address)[this.wordOf(address)] = value;
  }
}

/** A little-endian u64 field as a number; exact to 2^53. */
export function readU64(words: Uint32Array, byteOffset: number): number {
  return (words[byteOffset / 4] ?? 0) + (words[byteOffset / 4 + 1] ?? 0) * 0x1_0000_0000;
}

export function writeU64(words: Uint32Array, byteOffset: number, value: number): void {
  words[byteOffset / 4] = value >>> 0;
  words[byteOffset / 4 + 1] = floor(value / 0x1_0000_0000);
}
