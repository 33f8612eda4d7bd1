import type { Clock } from '../clock.js';
import type { MigratableDevice } from '../device/migratable-device.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { DirtyTracker } from '../tracker/dirty-tracker.js';
import type { HostScenario } from './scenario.js';
import type { Writer } from './workload/writer.js';

export interface SimulatedGuestParts {
  readonly clock: Clock;
  readonly memory: GuestMemory;
  readonly devices: readonly MigratableDevice[];
  readonly host: Required<HostScenario>;
  readonly guestPageSize: number;
  readonly writer: Writer;
  readonly canThrottle: boolean;
  /** Called when the vCPUs are held back by another fraction. */
  readonly onThrottle: (fraction: number) => void;
}

/**
 * The guest at its source. What it writes is worked out at each harvest, from the time for which it has run since the one before: a
 * guest that nobody looks at costs nothing.
 */
export class SimulatedGuest implements MigratableVm, DirtyTracker {
  readonly name = 'simulated';
  readonly memory: GuestMemory;
  readonly devices: readonly MigratableDevice[];
  readonly trackers: readonly DirtyTracker[] = [this];
  readonly throttle?: (fraction: number) => void;
  /** Pages that all harvests have reported, of those that the guest has written. */
  harvestedPages = 0;
  readonly #parts: SimulatedGuestParts;
  /** The guest's own clock, in milliseconds, as it was at `#at` of the host's. */
  #ran = 0;
  #at: number;
  #running = true;
  /** The share of time for which the vCPUs are not held back. */
  #speed = 1;
  /** Up to when, by the guest's clock, its writes were harvested; `undefined` while nobody tracks them. */
  #harvested: number | undefined;

  constructor(parts: SimulatedGuestParts) {
    this.#parts = parts;
    this.memory = parts.memory;
    this.devices = parts.devices;
    this.#at = parts.clock.now();
    if (!parts.canThrottle) return;
    this.throttle = (fraction) => {
      this.#ran = this.ranMs;
      this.#at = parts.clock.now();
      this.#speed = 1 - fraction;
      parts.onThrottle(fraction);
    };
  }

  /** How long the guest has run, by its own clock. Milliseconds. */
  get ranMs(): number {
    return this.#running ? this.#ran + (this.#parts.clock.now() - this.#at) * this.#speed : this.#ran;
  }

  get running(): boolean {
    return this.#running;
  }

  runState(): 'running' {
    return 'running';
  }

  /** The guest runs until its last vCPU has stopped. */
  async pause(signal?: AbortSignal): Promise<void> {
    const { clock, host } = this.#parts;
    await clock.sleep(host.pauseMs, signal);
    this.#ran = this.ranMs;
    this.#running = false;
  }

  async resume(): Promise<void> {
    if (this.#running) return;
    this.#at = this.#parts.clock.now();
    this.#running = true;
  }

  async start(): Promise<void> {
    this.#harvested = this.ranMs;
  }

  async stop(): Promise<void> {
    this.#harvested = undefined;
  }

  async harvest(into: DirtyBitmaps): Promise<void> {
    if (this.#harvested === undefined) {
      throw new GodwitError('GODWIT_TRACKER_FAILED', 'the simulated tracker was not started: its writes are not known');
    }
    const { clock, host, writer, memory, guestPageSize } = this.#parts;
    const now = this.ranMs;
    const marks = into.at(0);
    // The engine gives each tracker bitmaps of its own, which are clear.
    if (now > this.#harvested) writer.write(this.#harvested, now, marks);
    this.#harvested = now;
    const dirty = marks.count();
    this.harvestedPages += dirty;
    const guestPages = dirty * (memory.pageSize / guestPageSize);
    const gib = (marks.pageCount * memory.pageSize) / 2 ** 30;
    await clock.sleep(host.harvestMs + host.harvestMsPerGiB * gib + (host.harvestNsPerPage * guestPages) / 1e6);
  }
}

/** The VM that is built at the destination. */
export function simulatedDestination(
  clock: Clock,
  memory: GuestMemory,
  devices: readonly MigratableDevice[],
  resumeMs: number,
): MigratableVm {
  return {
    memory,
    devices,
    trackers: [],
    pause: async () => {},
    resume: () => clock.sleep(resumeMs),
  };
}
