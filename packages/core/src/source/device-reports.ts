import { abortable } from '../abortable.js';
import type { DeviceOutlook } from '../convergence/device-terms.js';
import { Samples } from '../convergence/samples.js';
import type { MigratableDevice } from '../device/migratable-device.js';
import { sideBySide } from '../device/side-by-side.js';
import type { DeviceCalls } from './device-calls.js';

/** The most bytes of state that a device can report: 1 PiB. A larger number comes from a wrong unit or an unset field. */
const MOST_BYTES = 2 ** 50;

/** Sending state of at most this many bytes shows how long a call and its frames take, not how fast bytes are sent. */
const SMALL_BYTES = 16 * 1024;

/** A day, in milliseconds: no save is expected to take longer. */
const MOST_MS = 86_400_000;

/**
 * What devices report of their state, for the prediction of the downtime: its bytes, and the time that saving takes. An impossible value
 * is not used: an assumption replaces it, and its text has the reported value.
 */
export class DeviceReports {
  readonly #devices: readonly MigratableDevice[];
  readonly #calls: DeviceCalls;
  readonly #sizes: number[];
  readonly #assumptions: (string | undefined)[];
  /** Per device: milliseconds; `undefined` where the device does not report them. */
  readonly #saveMs: (number | undefined)[];
  /** Messages that were already emitted: each is emitted once. */
  readonly #told = new Set<string>();
  readonly #untold: string[] = [];
  readonly #yields = new Samples();

  constructor(devices: readonly MigratableDevice[], calls: DeviceCalls) {
    this.#devices = devices;
    this.#calls = calls;
    this.#sizes = devices.map(() => 0);
    this.#assumptions = devices.map(() => undefined);
    this.#saveMs = devices.map(() => undefined);
  }

  /**
   * Asks every device that reports its size and is not busy. Resolves with the bytes of each device: its last report, or 0 without one.
   */
  async ask(signal: AbortSignal): Promise<readonly number[]> {
    for (const [index, device] of this.#devices.entries()) {
      if (this.#calls.isBusy(device)) continue;
      if (device.stateBytes !== undefined) {
        const asking = this.#calls.begin(device, 'tell the size of', async () => (await device.stateBytes?.()) ?? 0);
        const answer: unknown = await abortable(asking, signal);
        this.#take(index, device, answer);
      }
      if (device.expectedSaveMs !== undefined) this.#saveMs[index] = this.#expectedSave(device);
    }
    return this.#sizes;
  }

  get sizes(): readonly number[] {
    return this.#sizes;
  }

  /** For each device, why its size is an assumption; `undefined` when the device has reported it. */
  get assumptions(): readonly (string | undefined)[] {
    return this.#assumptions;
  }

  get outlook(): DeviceOutlook {
    const known = this.#saveMs.filter((ms) => ms !== undefined);
    return {
      count: this.#devices.length,
      bytes: this.#sizes.reduce((sum, bytes) => sum + bytes, 0),
      expectedSaveMs: this.#expectedSaveMs(),
      expecting: known.length,
      callMs: this.#yields.estimate,
    };
  }

  /** Of devices that are saved at the same time, the slowest counts. */
  #expectedSaveMs(): number {
    let sum = 0;
    let first = 0;
    for (const { length } of sideBySide(this.#devices)) {
      sum += this.#saveMs.slice(first, first + length).reduce<number>((most, ms = 0) => Math.max(most, ms), 0);
      first += length;
    }
    return sum;
  }

  /** Learns how long it took to yield `bytes` bytes while the guest ran, and to send them. */
  yielded(ms: number, bytes: number): void {
    if (bytes > 0 && bytes <= SMALL_BYTES) this.#yields.add(ms);
  }

  /** Messages for a person that were not returned before: assumptions, and impossible values. Each message is returned once. */
  takeUntold(): readonly string[] {
    return this.#untold.splice(0);
  }

  #take(index: number, device: MigratableDevice, answer: unknown): void {
    const before = this.#sizes[index] as number;
    const { bytes, assumed } = (typeof answer === 'object' && answer !== null ? answer : { bytes: answer }) as {
      readonly bytes: unknown;
      readonly assumed?: string;
    };
    const valid = typeof bytes === 'number' && bytes >= 0 && bytes <= MOST_BYTES;
    if (valid) this.#sizes[index] = Math.ceil(bytes);
    this.#assumptions[index] = valid
      ? assumed
      : `stateBytes() says ${String(bytes)}, which cannot be a number of bytes (0 to 2^50); ${before} are assumed`;
    const why = this.#assumptions[index];
    if (why !== undefined) this.#tell(device, why);
  }

  #expectedSave(device: MigratableDevice): number | undefined {
    try {
      const ms: unknown = device.expectedSaveMs?.();
      if (ms === undefined) return undefined;
      if (typeof ms === 'number' && ms >= 0 && ms <= MOST_MS) return ms;
      this.#tell(
        device,
        `expectedSaveMs() says ${String(ms)}, which cannot be a number of milliseconds; a guess is used`,
      );
    } catch (error) {
      this.#tell(device, `expectedSaveMs() failed, so that a guess is used: ${String(error)}`);
    }
    return undefined;
  }

  #tell({ id }: MigratableDevice, what: string): void {
    const message = `device "${id}": ${what}`;
    if (this.#told.has(message)) return;
    this.#told.add(message);
    this.#untold.push(message);
  }
}
