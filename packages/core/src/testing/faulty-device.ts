import { checkOptions } from '../argument.js';
import type { MigratableDevice } from '../device/migratable-device.js';

/** When a `FaultyDevice` fails. */
export interface DeviceFaults {
  /** `save` throws at this call (1 is the first). */
  readonly failSave?: number;
  /** `load` throws at this call. */
  readonly failLoad?: number;
  /** `save` never ends. */
  readonly hangSave?: boolean;
  /** `load` never ends. */
  readonly hangLoad?: boolean;
  /** Called when `save` has begun; it may write guest memory. */
  readonly onSave?: () => void;
}

/**
 * A device whose `save` or `load` fails or hangs on purpose.
 *
 * @example
 * vm.devices = [new FaultyDevice('nic', Uint8Array.of(1, 2), { failLoad: 1 })]; // the migration fails, and the guest stays
 */
export class FaultyDevice implements MigratableDevice {
  readonly id: string;
  readonly version: number;
  state: Uint8Array;
  saves = 0;
  loads = 0;
  readonly #faults: DeviceFaults;

  constructor(id: string, state: Uint8Array = Uint8Array.of(1), faults: DeviceFaults = {}, version = 1) {
    checkOptions<DeviceFaults>('FaultyDevice', faults, {
      failSave: true,
      failLoad: true,
      hangSave: true,
      hangLoad: true,
      onSave: true,
    });
    this.id = id;
    this.state = state;
    this.version = version;
    this.#faults = faults;
  }

  async *save(): AsyncGenerator<Uint8Array> {
    this.saves++;
    this.#faults.onSave?.();
    if (this.saves === this.#faults.failSave) throw new Error('save failed on purpose');
    yield this.state;
    if (this.#faults.hangSave) await new Promise<never>(() => {});
  }

  async load(state: AsyncIterable<Uint8Array>): Promise<void> {
    this.loads++;
    const chunks: Uint8Array[] = [];
    for await (const chunk of state) chunks.push(chunk.slice());
    if (this.loads === this.#faults.failLoad) throw new Error('load failed on purpose');
    if (this.#faults.hangLoad) await new Promise<never>(() => {});
    const whole = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0));
    let at = 0;
    for (const chunk of chunks) {
      whole.set(chunk, at);
      at += chunk.byteLength;
    }
    this.state = whole;
  }
}
