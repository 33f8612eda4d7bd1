import { GodwitError } from '@godwit/core';
import { type IoctlArgument, uninterrupted, uninterruptedAsync } from '@godwit/linux/unstable';
import type { KernelPort } from './kernel-port.js';

/**
 * An open descriptor, and the calls on it that are in flight. After `close` no call is made on its number, which may then be
 * another file's; the number is given back only when the calls in flight are over.
 */
export class Descriptor {
  readonly fd: number;
  readonly port: KernelPort;
  readonly #what: string;
  readonly #owned: boolean;
  #calls = 0;
  #open = true;
  #closing: Promise<void> | null = null;
  #callsOver: (() => void) | null = null;

  /**
   * @param what for messages: `IOMMU group 7`
   * @param owned whether closing this closes the file
   */
  constructor(port: KernelPort, fd: number, what: string, owned = true) {
    this.port = port;
    this.fd = fd;
    this.#what = what;
    this.#owned = owned;
  }

  get isOpen(): boolean {
    return this.#open;
  }

  /** @throws GodwitError GODWIT_INVALID_STATE once it is closed */
  requireOpen(): void {
    if (!this.#open) throw new GodwitError('GODWIT_INVALID_STATE', `${this.#what} is closed`);
  }

  /**
   * Makes a call that is done in microseconds. Returns its result, or minus errno, which is never EINTR: an interrupted call
   * is made again.
   */
  ioctl(request: number, argument?: IoctlArgument): number {
    this.requireOpen();
    return uninterrupted(() => this.port.ioctl(this.fd, request, argument));
  }

  /** Makes a call on a pool thread, with the same result as `ioctl`. */
  async ioctlAsync(request: number, argument?: IoctlArgument): Promise<number> {
    this.requireOpen();
    this.#calls++;
    try {
      return await uninterruptedAsync(() => this.port.ioctlAsync(this.fd, request, argument));
    } finally {
      this.#calls--;
      if (this.#calls === 0) this.#callsOver?.();
    }
  }

  /** Idempotent. Closes the descriptor before it returns, or, if calls are in flight, when they are over. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    if (!this.#owned) return;
    if (this.#calls === 0) this.port.close(this.fd);
    else this.#callsOver = () => this.port.close(this.fd);
  }

  /**
   * Closes the descriptor on a pool thread: the last close of a file may unpin a guest's memory. Resolves when the file is
   * closed.
   */
  closeAsync(): Promise<void> {
    this.#closing ??= this.#closeAsync();
    return this.#closing;
  }

  async #closeAsync(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    if (!this.#owned) return;
    if (this.#calls > 0) {
      await new Promise<void>((resolve) => {
        this.#callsOver = resolve;
      });
    }
    if (this.port.closeAsync === undefined) this.port.close(this.fd);
    else await this.port.closeAsync(this.fd);
  }
}
