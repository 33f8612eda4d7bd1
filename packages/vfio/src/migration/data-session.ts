import { GodwitError } from '@godwit/core';
import { SyscallError } from '@godwit/linux';
import { Errno } from '@godwit/linux/unstable';
import type { KernelPort } from '../kernel-port.js';
import { RECORD_BYTES, RecordKind, writeRecordHead } from './state-records.js';

/** The size of records, their heads included: as much as the engine puts into one frame. */
const PIECE_BYTES = 2 ** 20;

/**
 * The descriptor through which a device's state flows, from the change of state that began it to the one that ends it. Reads, writes
 * and closing run on pool threads; `close` waits for the call under way, since a number that is closed too early may be another
 * file's when the kernel uses it.
 */
export class DataSession {
  readonly fd: number;
  readonly #port: KernelPort;
  readonly #device: string;
  readonly #buffer: Uint8Array;
  #working: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | null = null;

  constructor(port: KernelPort, fd: number, device: string) {
    this.#port = port;
    this.fd = fd;
    this.#device = device;
    this.#buffer = new Uint8Array(PIECE_BYTES);
  }

  /**
   * Resolves with the next piece as a record, which is borrowed until the next call.
   *
   * @param phase in `pre-copy` the stream has a temporary end, when the device has nothing new: the kernel's documents specify
   * ENOMSG, some drivers (mtty) return 0. In `stop-copy` 0 is the final end, and ENOMSG a defect of the driver.
   * @returns null at the end of the phase
   */
  async read(phase: 'pre-copy' | 'stop-copy'): Promise<Uint8Array | null> {
    const result = await this.#exclusively(() => this.#port.read(this.fd, this.#buffer.subarray(RECORD_BYTES)));
    if (result > 0) {
      writeRecordHead(this.#buffer, RecordKind.DATA, result);
      return this.#buffer.subarray(0, RECORD_BYTES + result);
    }
    if (result === 0 || (phase === 'pre-copy' && result === -Errno.ENOMSG)) return null;
    throw new SyscallError('read', -result, `the state of ${this.#device} (${phase})`, {
      code: 'GODWIT_DEVICE_FAILED',
    });
  }

  /** Writes all of `bytes`; drivers may take less at a time. */
  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.byteLength; ) {
      const rest = bytes.subarray(at);
      const result = await this.#exclusively(() => this.#port.write(this.fd, rest));
      if (result < 0) {
        throw new SyscallError('write', -result, `the state of ${this.#device}, byte ${at} of ${bytes.byteLength}`, {
          code: 'GODWIT_DEVICE_FAILED',
          advice: 'the device does not understand it, or has no room for it',
        });
      }
      if (result === 0) {
        throw new GodwitError('GODWIT_DEVICE_FAILED', `${this.#device} takes no more of its state, at byte ${at}`);
      }
      at += result;
    }
  }

  /** Idempotent: the number is given back once, and every caller waits for it. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.#working;
    if (this.#port.closeAsync === undefined) this.#port.close(this.fd);
    else await this.#port.closeAsync(this.fd);
  }

  async #exclusively(call: () => Promise<number>): Promise<number> {
    if (this.#closing !== null) {
      throw new GodwitError('GODWIT_INVALID_STATE', `the data session of ${this.#device} is closed`);
    }
    const calling = call();
    this.#working = calling.then(
      () => {},
      () => {},
    );
    return calling;
  }
}
