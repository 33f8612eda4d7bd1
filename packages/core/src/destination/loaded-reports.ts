import type { DestinationContext } from './destination-context.js';
import type { DeviceLoader } from './device-loader.js';
import type { IncomingConnection } from './incoming-connection.js';

/**
 * Tells the source up to which piece its devices' state was loaded, which is the back-pressure for state that is loaded as it comes. One
 * `loaded` frame at a time is written, with the sequence at the time of writing; further reports of a device are merged into one meanwhile.
 * Without a connection nothing is written.
 */
export class LoadedReports {
  readonly #context: DestinationContext;
  readonly #due = new Set<number>();
  #writing = false;

  constructor(context: DestinationContext) {
    this.#context = context;
  }

  /** Reports that the device with this index has taken a piece. */
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
      // Nothing is lost when a report is dropped here: a source that goes back or reconnects is told about every device (`tellLoaded`).
      if (serving?.protocolPhase !== 'receiving' || current === undefined || current.signal.aborted) continue;
      const { attempt, sequence } = arriving?.loader.progress(device) ?? { attempt: 0, sequence: 0 };
      if (sequence === 0) continue;
      const loaded = { type: 'loaded', device, sequence } as const;
      await current.write(attempt === 0 ? loaded : { ...loaded, attempt }).catch(() => {});
    }
    this.#writing = false;
  }
}

/**
 * Tells the source about every device: reports over an earlier connection may be lost, and those made while devices loaded were dropped.
 */
export async function tellLoaded(connection: IncomingConnection, loader: DeviceLoader): Promise<void> {
  for (const device of loader.loaded.keys()) {
    // The sequence is read only here, since a device may have been reset during the last write.
    const sequence = loader.loaded[device] ?? 0;
    if (sequence > 0) await connection.write({ type: 'loaded', device, sequence });
  }
}
