import type { DeviceMemory, GuestRange } from './device-memory.js';

/**
 * The buffers of one chain, already checked. A device reads the readable buffers as one sequence of bytes and writes the writable buffers
 * as another; the boundaries between buffers have no meaning (2.7.4).
 */
export class DescriptorChain {
  /** The index of the first descriptor, by which the driver knows the chain. */
  readonly head: number;
  readonly readableBytes: number;
  readonly writableBytes: number;
  readonly #memory: DeviceMemory;
  readonly #readable: readonly GuestRange[];
  /** Where the writable buffers are, for a device that does not write them. */
  readonly writable: readonly GuestRange[];
  #revoked = false;

  constructor(memory: DeviceMemory, head: number, readable: readonly GuestRange[], writable: readonly GuestRange[]) {
    this.#memory = memory;
    this.head = head;
    this.#readable = readable;
    this.writable = writable;
    this.readableBytes = total(readable);
    this.writableBytes = total(writable);
  }

  /** Resolves when all pages of the buffers are there: see `DeviceMemory.present`. */
  async present(): Promise<void> {
    for (const range of [...this.#readable, ...this.writable]) await this.#memory.present(range);
  }

  /** Takes the buffers away from the device: the driver has reset it, and uses their memory for something else. */
  revoke(): void {
    this.#revoked = true;
  }

  /** Copies readable bytes. @throws RangeError when the chain has fewer bytes, or was revoked */
  read(offset: number, byteLength: number): Uint8Array {
    this.#requireOwned();
    const bytes = new Uint8Array(byteLength);
    let at = 0;
    for (const range of part(this.#readable, offset, byteLength)) {
      bytes.set(this.#memory.read(range), at);
      at += range.byteLength;
    }
    return bytes;
  }

  /** Writes into the writable buffers. @throws RangeError when they have no room for it, or the chain was revoked */
  write(offset: number, bytes: Uint8Array): void {
    this.#requireOwned();
    let at = 0;
    for (const { address, byteLength } of part(this.writable, offset, bytes.byteLength)) {
      this.#memory.write(address, bytes.subarray(at, at + byteLength));
      at += byteLength;
    }
  }

  #requireOwned(): void {
    if (this.#revoked)
      throw new RangeError(`the driver has reset the device, and the chain at ${this.head} is its own`);
  }
}

function total(ranges: readonly GuestRange[]): number {
  return ranges.reduce((sum, { byteLength }) => sum + byteLength, 0);
}

/** The ranges from the byte at `offset` on. */
function part(ranges: readonly GuestRange[], offset: number, byteLength: number): readonly GuestRange[] {
  if (offset + byteLength > total(ranges)) {
    throw new RangeError(`bytes ${offset} to ${offset + byteLength} of a chain that has ${total(ranges)}`);
  }
  const parts: GuestRange[] = [];
  let start = 0;
  for (const range of ranges) {
    const from = Math.max(offset - start, 0);
    const to = Math.min(offset + byteLength - start, range.byteLength);
    if (from < to) parts.push({ address: range.address + from, byteLength: to - from });
    start += range.byteLength;
  }
  return parts;
}
