import { Worker } from 'node:worker_threads';
import { checkTap, closeFd, eventfd, openTap, writeFd } from '@godwit/linux/unstable';
import type { FrameLink } from './frame-link.js';
import type { TapThreadData } from './tap-thread.js';

/** A tap interface of this host, which carries the frames of a network card. */
export interface TapChoice {
  /** The name of the interface. */
  readonly tap: string;
}

/**
 * A link over a tap interface. It is open only while the guest runs, so that a guest that moves between two VMMs of one host finds it free. A
 * thread reads the frames; the host's kernel takes those of the guest without waiting, or drops them.
 */
export class TapLink implements FrameLink {
  readonly #name: string;
  #open: { readonly fd: number; readonly stopFd: number; readonly ended: Promise<void> } | undefined;

  /** @throws GodwitError GODWIT_INVALID_ARGUMENT when there is no such interface */
  constructor({ tap }: TapChoice) {
    checkTap(tap);
    this.#name = tap;
  }

  /** @throws GodwitError GODWIT_DEVICE_BUSY when another process has the interface open, GODWIT_PERMISSION when it is another user's */
  open(arrives: (frame: Uint8Array) => void): void {
    if (this.#open !== undefined) return;
    const fd = openTap(this.#name);
    let stopFd: number | undefined;
    try {
      stopFd = eventfd();
      const workerData: TapThreadData = { fd, stopFd };
      const worker = new Worker(new URL('./tap-thread.js', import.meta.url), { workerData, name: 'tap' });
      const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
      const mine = { fd, stopFd, ended };
      this.#open = mine;
      worker.on('message', (frame: Uint8Array) => {
        if (this.#open === mine) arrives(frame);
      });
      process.once('exit', this.#onExit);
    } catch (error) {
      closeFd(fd);
      if (stopFd !== undefined) closeFd(stopFd);
      throw error;
    }
  }

  /** @throws GodwitError as `open` does */
  requireFree(): void {
    if (this.#open === undefined) closeFd(openTap(this.#name));
  }

  send(frame: Uint8Array): void {
    if (this.#open !== undefined) writeFd(this.#open.fd, frame);
  }

  async close(): Promise<void> {
    const open = this.#open;
    if (open === undefined) return;
    this.#onExit();
    this.#open = undefined;
    process.removeListener('exit', this.#onExit);
    await open.ended;
    closeFd(open.fd);
    closeFd(open.stopFd);
  }

  /** Tells the thread to end: `process.exit` waits for it. */
  readonly #onExit = (): void => {
    if (this.#open !== undefined) writeFd(this.#open.stopFd, new Uint8Array(BigUint64Array.of(1n).buffer));
  };
}
