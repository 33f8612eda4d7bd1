import type { CpuModel } from '@godwit/linux/kvm';
import { PAGE_SIZE, RAM_LOW_LIMIT } from '../guest/layout.js';
import { placeWorkingSet } from '../guest/working-set.js';
import type { LinuxBoot } from '../linux/boot-plan.js';
import type { VirtioChoice } from '../virtio/virtio-devices.js';

/** The guest to boot, as chosen on the command line. */
export interface GuestSpec {
  readonly kind: 'kvm' | 'software';
  readonly memoryBytes: number;
  readonly vcpus: number;
  /** Page writes per second over all vCPUs; 0 is as fast as possible. */
  readonly dirtyPagesPerSecond: number;
  readonly workingSetBytes: number;
  readonly order: 'sequential' | 'random';
  /** Write every byte of a page, not just its stamps. */
  readonly wholePages: boolean;
  readonly heartbeatMs: number;
  /** The processor that it sees. Default `host`; KVM only. */
  readonly cpu?: CpuModel;
}

/** A flat image to boot. */
export interface ImageSpec {
  readonly kind: 'image';
  readonly memoryBytes: number;
  readonly image: Uint8Array;
  readonly cpu?: CpuModel;
}

/** A Linux to boot. */
export interface LinuxSpec {
  readonly kind: 'linux';
  readonly memoryBytes: number;
  readonly vcpus: number;
  readonly linux: LinuxBoot;
  readonly cpu?: CpuModel;
  /** Its virtio devices. Default: none. */
  readonly virtio?: VirtioChoice;
}

/**
 * The reason why a working set does not fit into the guest's RAM together with the guest itself; `undefined` when it
 * does.
 */
export function workingSetProblem(memoryBytes: number, vcpus: number, workingSetBytes: number): string | undefined {
  const low = Math.min(memoryBytes, RAM_LOW_LIMIT);
  try {
    placeWorkingSet({ low, high: memoryBytes - low }, vcpus, workingSetBytes / PAGE_SIZE);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
