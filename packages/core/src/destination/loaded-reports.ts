import type { DestinationContext } from './destination-context.js';
import type { DeviceLoader } from './device-loader.js';
import type { IncomingConnection } from './incoming-connection.js';

/**
 * Tells the source up to which piece its devices' state was loaded: back-pressure for what comes while its guest runs, over a
 * connection that is there. One report at a time is written, of what is true then; those that come meanwhile become one for each
 * device.
 */
export class LoadedReports {
  readonly #context: DestinationContext;
  readonly #due = new Set<number>();
  #writing = false;

  constructor(context: DestinationContext) {
    this.#context = context;
  }

  /** The device has taken more. */
  report(device: number): void {
    this.#due.add(device);
    if (!this.#writing) void this.#writeAll();
  }

  async #writeAll(): Promise<void> {
    this.#writing = true;
    for (const device of this.#due) {
      this.#due.delete(device);
      const { session, serving, arriving } = this.#context;
      const { current } = session;
      // A source that goes back, or comes back, is told of every device.
      if (serving?.protocolPhase !== 'receiving' || current === undefined || current.signal.aborted) continue;
      const sequence = arriving?.loader.loaded[device] ?? 0;
      if (sequence > 0) await current.write({ type: 'loaded', device, sequence }).catch(() => {});
    }
    this.#writing = false;
  }
}

/** Of every device: what was said of it over a connection before, or not said while devices loaded, the source does not know. */
export async function tellLoaded(connection: IncomingConnection, loader: DeviceLoader): Promise<void> {
  for (const device of loader.loaded.keys()) {
    // As it is now: a device may have been reset meanwhile.
    const sequence = loader.loaded[device] ?? 0;
    if (sequence > 0) await connection.write({ type: 'loaded', device, sequence });
  }
}
