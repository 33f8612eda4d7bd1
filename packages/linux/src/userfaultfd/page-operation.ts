import type { StructLayout } from '../layouts/kernel-layout.js';
import { Errno, tryIoctl } from '../libc/index.js';

const TWO_32 = 2 ** 32;

/** The offsets of a request's numbers, in bytes. */
interface Places {
  readonly start: number;
  readonly length: number;
  readonly mode: number;
  /** The bytes that were done, or minus errno; undefined for a request that is done completely or not at all. */
  readonly result: number | undefined;
  /** The source address of the bytes; undefined for a request without one. */
  readonly source: number | undefined;
}

type Field = `${string}start` | `${string}len` | string;

/**
 * One request of a userfaultfd on pages (UFFDIO_COPY, ...) with its argument, which is made once: a call allocates nothing. Addresses are
 * numbers, since those of user space are below 2^47 (2^56 for a process that asks for more).
 *
 * The kernel stops at a page that it cannot do, and at any page while the mapping is being changed. The request is repeated as long as it
 * makes progress, so that all bytes before the page to which `errno` refers are done.
 */
export class PageOperation {
  /** The request's name in its header. */
  readonly name: string;
  /** The errno with which the last `run` stopped before the end; 0 when it did all. */
  errno = 0;
  readonly #request: number;
  readonly #bytes: Uint8Array;
  readonly #words: DataView;
  readonly #places: Places;

  constructor(name: string, request: number, { size, fields }: StructLayout<Field>) {
    this.name = name;
    this.#request = request;
    // The view has an ArrayBuffer: V8 may move the bytes of a small typed array that has none yet.
    this.#words = new DataView(new ArrayBuffer(size));
    this.#bytes = new Uint8Array(this.#words.buffer);
    const at = (...names: readonly string[]): number | undefined => {
      for (const field of names) if (fields[field] !== undefined) return fields[field][0];
      return undefined;
    };
    this.#places = {
      start: at('dst', 'start', 'range.start') as number,
      length: at('len', 'range.len') as number,
      mode: at('mode') ?? -1,
      result: at('copy', 'zeropage', 'mapped', 'updated'),
      source: at('src'),
    };
  }

  /** Runs the request; returns the bytes that were done, from `start` on: all of them unless `errno` is set. */
  run(fd: number, start: number, byteLength: number, mode = 0, source = 0): number {
    const { result: resultAt, source: sourceAt, mode: modeAt } = this.#places;
    this.errno = 0;
    if (modeAt !== -1) this.#set(modeAt, mode);
    for (let done = 0; ; ) {
      this.#set(this.#places.start, start + done);
      this.#set(this.#places.length, byteLength - done);
      if (sourceAt !== undefined) this.#set(sourceAt, source + done);
      if (resultAt !== undefined) this.#set(resultAt, 0);
      const result = tryIoctl(fd, this.#request, this.#bytes);
      if (result >= 0) return byteLength;
      const further = resultAt === undefined ? 0 : this.#signed(resultAt);
      // EAGAIN after some bytes: a page stopped the request, and the next call returns the reason.
      if (result === -Errno.EAGAIN && further > 0 && done + further < byteLength) {
        done += further;
        continue;
      }
      this.errno = -result;
      return further > 0 ? Math.min(done + further, byteLength) : done;
    }
  }

  #set(at: number, value: number): void {
    this.#words.setUint32(at, value % TWO_32, true);
    this.#words.setUint32(at + 4, value / TWO_32, true);
  }

  #signed(at: number): number {
    return this.#words.getInt32(at + 4, true) * TWO_32 + this.#words.getUint32(at, true);
  }
}
