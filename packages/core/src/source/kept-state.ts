import type { Frame } from '../protocol/frame.js';
import type { DeviceLink } from './device-outbox.js';

/**
 * Takes the place of a connection and keeps the state of devices in memory, so that a paused guest does not wait for a disk. `replay`
 * sends the state later.
 */
export class KeptState implements DeviceLink {
  readonly signal: AbortSignal;
  readonly #frames: { readonly frame: Frame; readonly payload: readonly Uint8Array[] }[] = [];

  constructor(signal: AbortSignal) {
    this.signal = signal;
  }

  /** Copies the payload, which is borrowed only until the promise resolves. */
  async write(frame: Frame, payload: readonly Uint8Array[] = []): Promise<void> {
    this.#frames.push({ frame, payload: payload.map((bytes) => bytes.slice()) });
  }

  async ping(): Promise<number> {
    return 0;
  }

  /** Sends all that was kept, in order, and forgets it. */
  async replay(link: Pick<DeviceLink, 'write'>, signal: AbortSignal): Promise<void> {
    for (const { frame, payload } of this.#frames.splice(0)) {
      signal.throwIfAborted();
      await link.write(frame, payload);
    }
  }
}
