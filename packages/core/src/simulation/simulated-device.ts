import type { Clock } from '../clock.js';
import type { MigratableDevice } from '../device/migratable-device.js';
import type { DeviceScenario } from './scenario.js';

/** Every chunk of state is a view of these bytes. */
const STATE = new Uint8Array(2 ** 20);

/** A device that has a size and rates; the bytes of its state mean nothing. */
export class SimulatedDevice implements MigratableDevice {
  readonly id: string;
  readonly version = 1;
  readonly parallel: boolean;
  readonly precopy?: () => AsyncIterable<Uint8Array>;
  readonly restart?: () => Promise<void>;
  readonly reset?: () => Promise<void>;
  readonly #clock: Clock;
  readonly #scenario: DeviceScenario;
  /**
   * Of the state that can be sent while the guest runs: the bytes that were not sent, or were out of date, at `#at`.
   */
  #unsent: number;
  #at: number;

  constructor(clock: Clock, scenario: DeviceScenario) {
    const { id, parallel = false, precopyBytes = 0 } = scenario;
    this.id = id;
    this.parallel = parallel;
    this.#clock = clock;
    this.#scenario = scenario;
    this.#unsent = precopyBytes;
    this.#at = clock.now();
    if (precopyBytes === 0) return;
    this.precopy = () => this.#yield(this.#take());
    this.restart = async () => {
      this.#unsent = precopyBytes;
    };
    // A reset has nothing to do, since no state is kept.
    this.reset = async () => {};
  }

  stateBytes(): number {
    return this.#scenario.bytes + this.#outOfDate;
  }

  async *save(signal?: AbortSignal): AsyncIterable<Uint8Array> {
    const { saveMs = 0, bytes } = this.#scenario;
    if (saveMs > 0) await this.#clock.sleep(saveMs, signal);
    yield* this.#yield(bytes + this.#take(), signal);
  }

  async load(state: AsyncIterable<Uint8Array>): Promise<void> {
    const { loadMs = 0, loadBytesPerSecond } = this.#scenario;
    for await (const { byteLength } of state) {
      if (loadBytesPerSecond !== undefined) await this.#clock.sleep((byteLength / loadBytesPerSecond) * 1000);
    }
    if (loadMs > 0) await this.#clock.sleep(loadMs);
  }

  *loadWrites(): Iterable<never> {}

  get #outOfDate(): number {
    const { precopyBytes = 0, dirtyBytesPerSecond = 0 } = this.#scenario;
    const since = ((this.#clock.now() - this.#at) / 1000) * dirtyBytesPerSecond;
    return Math.min(precopyBytes, Math.round(this.#unsent + since));
  }

  #take(): number {
    const bytes = this.#outOfDate;
    this.#unsent = 0;
    this.#at = this.#clock.now();
    return bytes;
  }

  async *#yield(bytes: number, signal?: AbortSignal): AsyncIterable<Uint8Array> {
    const { saveBytesPerSecond } = this.#scenario;
    for (let left = bytes; left > 0; ) {
      const chunk = STATE.subarray(0, Math.min(left, STATE.byteLength));
      if (saveBytesPerSecond !== undefined) {
        await this.#clock.sleep((chunk.byteLength / saveBytesPerSecond) * 1000, signal);
      }
      yield chunk;
      left -= chunk.byteLength;
    }
  }
}
