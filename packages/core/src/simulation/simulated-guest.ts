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
  /** Called when the fraction of the throttle changes. */
  readonly onThrottle: (fraction: number) => void;
}

/**
 * The guest at its source. Its writes are computed at each harvest, from the time for which it has run since the last one: between
 * harvests the guest takes no processor time.
 */
export class SimulatedGuest implements MigratableVm, DirtyTracker {
  readonly name = 'simulated';
  readonly memory: GuestMemory;
  readonly devices: readonly MigratableDevice[];
  readonly trackers: readonly DirtyTracker[] = [this];
  readonly throttle?: (fraction: number) => void;
  /** The sum of the pages that all harvests have reported as written by the guest. */
  harvestedPages = 0;
  readonly #parts: SimulatedGuestParts;
  /** The guest's own clock, in milliseconds, at the host's time `#at`. */
  #ran = 0;
  #at: number;
  #running = true;
  /** The share of time for which the throttle lets the vCPUs run. */
  #speed = 1;
  /** The time of the guest's clock up to which its writes were harvested; `undefined` while they are not tracked. */
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

/** Builds the destination's VM. */
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
