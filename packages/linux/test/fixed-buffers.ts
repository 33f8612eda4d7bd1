import type { Support } from '@godwit/linux';
import { cFunction, closeFd, lastErrno, MapFlags, mmap, munmap, viewOf } from '@godwit/linux/unstable';

/** asm/unistd_64.h and asm-generic/unistd.h agree on these. */
const IO_URING_SETUP = 425;
const IO_URING_ENTER = 426;
const IO_URING_REGISTER = 427;
/** linux/io_uring.h */
const IORING_OFF_SQES = 0x1000_0000;
const IORING_REGISTER_BUFFERS = 0;
const IORING_UNREGISTER_BUFFERS = 1;
const IORING_OP_READ_FIXED = 4;
const IORING_ENTER_GETEVENTS = 1;
const PARAMS_BYTES = 120;
const SQE_BYTES = 64;
const RING_BYTES = 4096;

const setup = cFunction<[number, number, Uint8Array], number>('syscall', 'long', ['long', 'unsigned int', 'void *']);
const register = cFunction<[number, number, number, BigUint64Array | null, number], number>('syscall', 'long', [
  'long',
  'int',
  'unsigned int',
  'void *',
  'unsigned int',
]);
const enter = cFunction<[number, number, number, number, number, bigint, bigint], number>('syscall', 'long', [
  'long',
  'int',
  'unsigned int',
  'unsigned int',
  'unsigned int',
  'uint64_t',
  'uint64_t',
]);

/**
 * A "device" that holds memory by its physical pages, as VFIO does for real ones: a buffer of this process that io_uring has
 * pinned for long, and writes whatever has become of the address.
 */
export class FixedBuffer {
  readonly #fd: number;
  readonly #address: bigint;
  readonly #rings: bigint;
  readonly #entries: bigint;
  readonly #offsets: { readonly tail: number; readonly mask: number; readonly array: number };

  /** Whether this machine lets this process do so. */
  static support(): Support {
    const fd = setup(IO_URING_SETUP, 1, new Uint8Array(PARAMS_BYTES));
    if (fd < 0) return { usable: false, reason: `io_uring is not to be had here (errno ${lastErrno()})` };
    closeFd(fd);
    return { usable: true };
  }

  constructor(address: bigint, byteLength: number) {
    const params = new Uint8Array(PARAMS_BYTES);
    const view = new DataView(params.buffer);
    this.#fd = done('io_uring_setup', setup(IO_URING_SETUP, 4, params));
    this.#address = address;
    // struct io_uring_params: sq_off at 40: head, tail, ring_mask, ring_entries, flags, dropped, array.
    const u32 = (offset: number): number => view.getUint32(offset, true);
    this.#offsets = { tail: u32(44), mask: u32(48), array: u32(64) };
    const flags = MapFlags.MAP_SHARED;
    this.#rings = mmap({ byteLength: RING_BYTES, flags, fd: this.#fd });
    this.#entries = mmap({ byteLength: RING_BYTES, flags, fd: this.#fd, offset: IORING_OFF_SQES });
    const vector = new BigUint64Array([address, BigInt(byteLength)]);
    done('IORING_REGISTER_BUFFERS', register(IO_URING_REGISTER, this.#fd, IORING_REGISTER_BUFFERS, vector, 1));
  }

  /** Reads bytes of a file's into the buffer's memory. */
  write(offset: number, fd: number, byteLength: number): void {
    const ring = viewOf(this.#rings, RING_BYTES);
    const words = new Uint32Array(ring.buffer, ring.byteOffset, RING_BYTES / 4);
    const { tail, mask, array } = this.#offsets;
    const at = (words[tail / 4] as number) & (words[mask / 4] as number);
    const entry = viewOf(this.#entries + BigInt(at * SQE_BYTES), SQE_BYTES);
    const sqe = new DataView(entry.buffer, entry.byteOffset, SQE_BYTES);
    entry.fill(0);
    sqe.setUint8(0, IORING_OP_READ_FIXED);
    sqe.setInt32(4, fd, true);
    sqe.setBigUint64(8, 0n, true);
    sqe.setBigUint64(16, this.#address + BigInt(offset), true);
    sqe.setUint32(24, byteLength, true);
    words[array / 4 + at] = at;
    Atomics.store(words, tail / 4, (words[tail / 4] as number) + 1);
    done('io_uring_enter', enter(IO_URING_ENTER, this.#fd, 1, 1, IORING_ENTER_GETEVENTS, 0n, 0n));
  }

  close(): void {
    register(IO_URING_REGISTER, this.#fd, IORING_UNREGISTER_BUFFERS, null, 0);
    munmap(this.#rings, RING_BYTES);
    munmap(this.#entries, RING_BYTES);
    closeFd(this.#fd);
  }
}

function done(call: string, result: number): number {
  if (result < 0) throw new Error(`${call} failed with errno ${lastErrno()}`);
  return result;
}
