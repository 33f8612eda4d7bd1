import type { Clock } from '../clock.js';
import { FIRST_LOAD_MS, FIRST_LOAD_MS_PER_BYTE } from '../convergence/device-terms.js';
import { type Estimate, guess, scaled, sumOf, times } from '../convergence/estimate.js';
import { Samples } from '../convergence/samples.js';
import type { MigratableDevice } from '../device/migratable-device.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { sideBySide } from '../device/side-by-side.js';
import type { PreparedFrame } from '../protocol/frame.js';

/** Pieces of fewer bytes say how long a call takes, not how fast bytes are loaded. */
const LEAST_BYTES = 16 * 1024;

/** The actual time divided by the one that a device or a VM has announced. */
const TOLD = guess(1, 0.5, 2.5);

/** The number of bytes for which a device is asked, beside 0, so that the difference gives the time for a byte. */
const PROBE_BYTES = 2 ** 20;

/** A day, in milliseconds: no load and no resume takes longer. */
const MOST_MS = 86_400_000;

/**
 * What this destination expects of loading and resuming, as `prepared` tells the source: the devices' own estimates, the rate at which
 * they have loaded state that came while the guest ran, and a guess where neither is known.
 */
export class LoadForecast {
  readonly #vm: MigratableVm;
  readonly #clock: Clock;
  readonly #warn: (message: string) => void;
  readonly #msPerByte = new Samples();
  /** Per device: the time since which it has had state to load. */
  readonly #busySince = new Map<number, number>();
  readonly #warned = new Set<string>();

  constructor(vm: MigratableVm, clock: Clock, warn: (message: string) => void) {
    this.#vm = vm;
    this.#clock = clock;
    this.#warn = warn;
  }

  /** Notes that a piece has come for the device with this index, which had loaded everything before it. */
  begun(device: number): void {
    this.#busySince.set(device, this.#clock.now());
  }

  /** Notes that the device has loaded a piece; `more`: further pieces are waiting. */
  took(device: number, bytes: number, more: boolean): void {
    const since = this.#busySince.get(device);
    const now = this.#clock.now();
    if (more) this.#busySince.set(device, now);
    else this.#busySince.delete(device);
    if (since !== undefined && bytes >= LEAST_BYTES) this.#msPerByte.add((now - since) / bytes);
  }

  /** The fields of `prepared`. */
  told(): Pick<PreparedFrame, 'load' | 'resume'> {
    const fixed: Estimate[] = [];
    const perByte: Estimate[] = [];
    let untold = 0;
    for (const together of sideBySide(this.#vm.devices)) {
      // Of devices that load at the same time, the slowest counts.
      let slowest: number | undefined;
      for (const device of together) {
        const none = this.#expected(device, 0);
        const some = this.#expected(device, PROBE_BYTES);
        if (none === undefined || some === undefined) {
          untold++;
          continue;
        }
        slowest = Math.max(slowest ?? 0, none);
        const each = Math.max(0, some - none) / PROBE_BYTES;
        perByte.push(scaled(guess(each, each, each), TOLD));
      }
      if (slowest !== undefined) fixed.push(scaled(guess(slowest, slowest, slowest), TOLD));
    }
    const learned = this.#msPerByte.estimate;
    const known = untold < this.#vm.devices.length || learned !== undefined;
    const load: number[] = [];
    if (known) {
      const base = sumOf([...fixed, ...(untold > 0 ? [times(FIRST_LOAD_MS, untold)] : [])]);
      // The destination does not know how the bytes are divided among the devices: the slowest device counts.
      const slowest = [...perByte, ...(untold > 0 || learned ? [learned ?? FIRST_LOAD_MS_PER_BYTE] : [])].reduce(
        (a, b) => (b.ms > a.ms ? b : a),
      );
      load.push(
        base.ms,
        base.lowMs,
        base.highMs,
        ...[slowest.ms, slowest.lowMs, slowest.highMs].map((ms) => ms * 2 ** 20),
      );
    }
    const resume = this.#expectedResume();
    return { load, resume: resume === undefined ? [] : [resume, resume * TOLD.lowMs, resume * TOLD.highMs] };
  }

  #expected(device: MigratableDevice, bytes: number): number | undefined {
    if (device.expectedLoadMs === undefined) return undefined;
    return this.#checked(`device "${device.id}": expectedLoadMs()`, () => device.expectedLoadMs?.(bytes));
  }

  #expectedResume(): number | undefined {
    if (this.#vm.expectedResumeMs === undefined) return undefined;
    return this.#checked('the VM: expectedResumeMs()', () => this.#vm.expectedResumeMs?.());
  }

  #checked(what: string, ask: () => unknown): number | undefined {
    let said: string;
    try {
      const ms = ask();
      if (ms === undefined) return undefined;
      if (typeof ms === 'number' && ms >= 0 && ms <= MOST_MS) return ms;
      said = `says ${String(ms)}, which cannot be a number of milliseconds; a guess is used`;
    } catch (error) {
      said = `failed, so that a guess is used: ${String(error)}`;
    }
    if (!this.#warned.has(what)) this.#warn(`${what} ${said}`);
    this.#warned.add(what);
    return undefined;
  }
}
