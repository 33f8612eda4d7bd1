import { type DirtyTracker, GodwitError, type MigratableVm } from '@godwit/core';
import { type Observable, Subject } from 'rxjs';
import { savedAfter } from './saved-after.js';
import { Turns } from './turns.js';
import { type DeviceReset, VfioMigratableDevice } from './vfio-migratable-device.js';

/**
 * The VFIO devices of one VM, which stop and start together: as long as one of them may still write into another (peer-to-peer DMA),
 * neither may be stopped. All of them therefore reach their P2P state before any is stopped, and the same on the way back.
 *
 * ```
 *              holdBack                 pause
 *   running ------------> held back ------------> stopped        resume, from everywhere: running
 * ```
 *
 * @example
 * const set = new VfioDeviceSet([new VfioMigratableDevice({ device, id: 'nic0', kind: deviceKind(folder) })]);
 * await migrate(set.attachTo(vm, trackersOf(choices)), connector).result;
 */
export class VfioDeviceSet {
  readonly devices: readonly VfioMigratableDevice[];
  readonly #resets = new Subject<DeviceReset>();
  readonly #turns = new Turns();
  /** The stop of all devices, which the first `save` has begun. */
  #stopping: Promise<void> | null = null;

  constructor(devices: readonly VfioMigratableDevice[]) {
    this.devices = devices;
  }

  /**
   * The reason why a device cannot be migrated together with the others, or `undefined`: a device without P2P states might write
   * into one that has already stopped.
   */
  migrationBlocker({ id, migration }: VfioMigratableDevice): string | undefined {
    if (migration.capabilities.p2p || this.devices.length === 1) return undefined;
    const others = this.devices.flatMap((device) => (device.migration === migration ? [] : [device.id]));
    return (
      `${id} cannot hold back peer-to-peer DMA (it lacks VFIO_MIGRATION_P2P), so it can only be migrated alone: unplug it, or ` +
      others.join(' and ')
    );
  }

  /**
   * Emits every device that could only be brought back by a reset, and has lost its state. Subscribe to it, and report each reset.
   */
  get resets(): Observable<DeviceReset> {
    return this.#resets.asObservable();
  }

  /**
   * Call it when the vCPUs are stopped. Devices then start no DMA into each other, but still into guest memory, which their trackers
   * see. A device that streams its state goes on with that, and can run again from here without losing it. Idempotent.
   *
   * @throws GodwitError GODWIT_BLOCKED for devices that cannot be stopped together, before any of them is changed: see
   * `migrationBlocker`
   */
  holdBack(): Promise<void> {
    return this.#turns.take(() => this.#holdBack());
  }

  /** Call it when the vCPUs are stopped. Once the promise has resolved, no device does DMA. Idempotent. */
  pause(): Promise<void> {
    return this.#turns.take(async () => {
      await this.#holdBack();
      await this.#all('stop', (device) => device.stop());
    });
  }

  /**
   * Call it before the vCPUs run. Devices run again whatever state they are in: a device that cannot return by itself, or is in
   * ERROR, is reset (see `resets`). Idempotent.
   */
  resume(): Promise<void> {
    this.#stopping = null;
    return this.#turns.take(async () => {
      await this.#all('start', async (device) => this.#report(await device.startWithoutPeers()));
      await this.#all('start', async (device) => this.#report(await device.start()));
    });
  }

  /** Resets the devices of a destination that will never run. */
  async abandon(): Promise<void> {
    await this.#all('let go of its state', (device) => device.abandon());
  }

  /**
   * Returns the VM with these devices added: they are saved and loaded after its own, and start before its vCPUs. Its `pause` holds
   * them back; the first `save` of any device stops them all. In a stop-and-copy that is given up before that `save`, because too
   * much is dirty, no device loses the state that it has streamed; the trackers see what devices write until then.
   *
   * @param trackers further trackers, usually those of the devices: `trackersOf(await chooseTrackers(...))`
   * @throws GodwitError GODWIT_INVALID_ARGUMENT for a VM that has VFIO devices already: they would not stop together with these
   */
  attachTo(vm: MigratableVm, trackers: readonly DirtyTracker[] = []): MigratableVm {
    const apart = vm.devices.find((device) => device instanceof VfioMigratableDevice);
    if (apart !== undefined) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `the VM has the VFIO device "${apart.id}" already: all of its VFIO devices belong into one VfioDeviceSet, which stops them together`,
      );
    }
    const stopped = () => {
      this.#stopping ??= this.#stopWhenSettled();
      return this.#stopping;
    };
    return {
      memory: vm.memory,
      trackers: [...vm.trackers, ...trackers],
      // The devices are stopped before a vCPU or an interrupt chip is saved, since a running device may still raise an interrupt.
      devices: [
        ...vm.devices.map((device) => savedAfter(device, stopped)),
        ...this.devices.map((device) => savedAfter(device, stopped, () => this.migrationBlocker(device))),
      ],
      ...(vm.runState === undefined ? {} : { runState: vm.runState.bind(vm) }),
      ...(vm.prepared === undefined ? {} : { prepared: vm.prepared.bind(vm) }),
      ...(vm.throttle === undefined ? {} : { throttle: vm.throttle.bind(vm) }),
      ...(vm.vcpuWrites === undefined ? {} : { vcpuWrites: vm.vcpuWrites.bind(vm) }),
      pause: async (signal) => {
        this.#stopping = null;
        await vm.pause(signal);
        // The engine calls `resume` after a pause that resolves although it was given up.
        if (signal?.aborted !== true) await this.holdBack();
      },
      resume: async () => {
        await this.resume();
        await vm.resume();
      },
      abandon: async (reason) => {
        try {
          await this.abandon();
        } finally {
          await vm.abandon?.(reason);
        }
      },
    };
  }

  /**
   * Checks the initial bytes of the devices a last time: from the P2P states they can still go back to streaming, once stopped they
   * cannot.
   */
  async #stopWhenSettled(): Promise<void> {
    for (const device of this.devices) device.checkInitialBytes();
    await this.pause();
  }

  async #holdBack(): Promise<void> {
    const blockers = this.devices.flatMap((device) => this.migrationBlocker(device) ?? []);
    if (blockers.length > 0) throw new GodwitError('GODWIT_BLOCKED', blockers.join('; '));
    await this.#all('hold back its peer-to-peer DMA', (device) => device.holdPeerDma());
  }

  #report(reset: DeviceReset | null): void {
    if (reset !== null) this.#resets.next(reset);
  }

  /**
   * Runs a step for all devices at once. If some fail, it throws after the others are done, so that nothing is under way afterwards.
   */
  async #all(what: string, step: (device: VfioMigratableDevice) => Promise<void>): Promise<void> {
    const outcomes = await Promise.allSettled(this.devices.map(step));
    for (const [i, outcome] of outcomes.entries()) {
      if (outcome.status === 'fulfilled') continue;
      throw GodwitError.wrap(outcome.reason, 'GODWIT_DEVICE_FAILED', `${this.devices[i]?.id} did not ${what}`);
    }
  }
}
