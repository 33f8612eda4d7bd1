import { GodwitError, type MigratableVm } from '@godwit/core';
import { type Observable, Subject } from 'rxjs';
import type { DeviceReset, VfioMigratableDevice } from './vfio-migratable-device.js';

/**
 * The VFIO devices of one VM, which stop and start together: as long as one of them may still write into another (peer-to-peer
 * DMA), neither may be stopped. So all reach their P2P state before any goes on to stop, and the same on the way back.
 */
export class VfioDeviceSet {
  readonly devices: readonly VfioMigratableDevice[];
  readonly #resets = new Subject<DeviceReset>();

  constructor(devices: readonly VfioMigratableDevice[]) {
    this.devices = devices;
  }

  /** Devices that could only be brought back by a reset, and lost their state. Never silent: subscribe, and tell somebody. */
  get resets(): Observable<DeviceReset> {
    return this.#resets.asObservable();
  }

  /** Call it when the vCPUs stand still. Once resolved no device does DMA. Idempotent. */
  async pause(): Promise<void> {
    await this.#all('hold back its peer-to-peer DMA', (device) => device.holdPeerDma());
    await this.#all('stop', (device) => device.stop());
  }

  /**
   * Call it before the vCPUs run. Devices run again whatever state they are in: one that does not come back by itself, or is
   * in ERROR, is reset (see `resets`). Idempotent.
   */
  async resume(): Promise<void> {
    await this.#all('start', async (device) => this.#report(await device.startWithoutPeers()));
    await this.#all('start', async (device) => this.#report(await device.start()));
  }

  /** For a destination that will never run. */
  async abandon(): Promise<void> {
    await this.#all('let go of its state', (device) => device.abandon());
  }

  /** A VM with these devices: they are saved and loaded after its own, stop after its vCPUs and start before them. */
  attachTo(vm: MigratableVm): MigratableVm {
    const { throttle } = vm;
    return {
      memory: vm.memory,
      trackers: vm.trackers,
      devices: [...vm.devices, ...this.devices],
      pause: async () => {
        await vm.pause();
        await this.pause();
      },
      resume: async () => {
        await this.resume();
        await vm.resume();
      },
      ...(throttle === undefined ? {} : { throttle: (fraction: number) => throttle.call(vm, fraction) }),
      abandon: async (reason) => {
        try {
          await this.abandon();
        } finally {
          await vm.abandon?.(reason);
        }
      },
    };
  }

  #report(reset: DeviceReset | null): void {
    if (reset !== null) this.#resets.next(reset);
  }

  /** All devices at once; when some fail, only after the others are done, so that nothing is under way afterwards. */
  async #all(what: string, step: (device: VfioMigratableDevice) => Promise<void>): Promise<void> {
    const outcomes = await Promise.allSettled(this.devices.map(step));
    for (const [i, outcome] of outcomes.entries()) {
      if (outcome.status === 'fulfilled') continue;
      throw GodwitError.wrap(outcome.reason, 'GODWIT_DEVICE_FAILED', `${this.devices[i]?.id} did not ${what}`);
    }
  }
}
