import { GodwitError } from '@godwit/core';
import type { CpuModel } from '@godwit/linux/kvm';
import type { BootParams } from '../guest/boot-params.js';
import { DEFAULT_HEARTBEAT_MICROSECONDS } from '../guest/boot-params.js';
import { MAXIMUM_VCPUS, PAGE_SIZE, RAM_HIGH_ADDRESS, RAM_LOW_LIMIT } from '../guest/layout.js';
import { placeWorkingSet } from '../guest/working-set.js';
import type { LinuxBoot } from '../linux/boot-plan.js';
import { type CpuDescription, parseCpu } from '../vcpu/cpu-description.js';
import { MAX_VCPUS } from '../vcpu/shared-board.js';
import { parseVirtio, type VirtioDescription } from '../virtio/virtio-description.js';
import type { VirtioChoice } from '../virtio/virtio-devices.js';
import { ramBlocks } from './memory-map.js';

/** `kvm` runs the bundled guest on /dev/kvm; `software` runs the same workload as JavaScript. */
export type MachineKind = 'kvm' | 'software';

/** What a machine was booted from, unless it is the bundled guest. */
export type MachineBoot = 'image' | 'linux';

const BOOTS: readonly unknown[] = ['image', 'linux'] satisfies MachineBoot[];

/** The configuration that source and destination must share: plain data, which is sent as the description of a migration. */
export interface MachineDescription {
  readonly kind: MachineKind;
  /** Bytes of RAM, whole pages, 16 MiB to 63 GiB. */
  readonly memoryBytes: number;
  /** 1 to 8, or to 64 for a Linux. */
  readonly vcpus: number;
  /**
   * `image` for a machine that was booted from an image, `linux` for one that runs a Linux: neither has a mailbox, since their guests do
   * not reserve those pages. The second has power management and a keyboard controller instead of the bundled guest's ports.
   */
  readonly boot?: MachineBoot;
  /** The guest's processor; absent for a software machine, and for a guest from before descriptions had it. */
  readonly cpu?: CpuDescription;
  /** The virtio devices, in the order of their slots; absent where there are none. Only a machine that runs a Linux has some. */
  readonly virtio?: readonly VirtioDescription[];
}

/** The workload of the bundled guest. */
export interface GuestWorkload {
  /** Bytes of the pages that it writes over and over; 0 for an idle guest that only prints heartbeats. Default 0. */
  readonly workingSetBytes?: number;
  readonly order?: BootParams['order'];
  /** Write every byte of a page, not only its stamps. Default false. */
  readonly wholePages?: boolean;
  /** Page writes per second of all vCPUs together; 0 is as fast as possible. Default 0. */
  readonly pagesPerSecond?: number;
  /** Default 20,000 (20 ms). */
  readonly heartbeatMicroseconds?: number;
  /** `line`: one exit per line; `serial`: by the serial port, byte by byte. Default `line`. */
  readonly console?: BootParams['console'];
  readonly seed?: number;
}

/** Another program than the bundled guest: loaded at an address and entered in 64-bit mode by every vCPU. */
export interface GuestProgram {
  /** Guest-physical, in ram-low; also the entry. The page tables are at `PAGE_TABLES_ADDRESS`. */
  readonly address: number;
  readonly bytes: Uint8Array;
}

export interface MachineConfig extends Omit<MachineDescription, 'kind' | 'boot' | 'virtio' | 'cpu'> {
  readonly workload?: GuestWorkload;
  /** A program to run instead of the bundled guest; KVM only. */
  readonly program?: GuestProgram;
  /** An image to boot in real mode instead of the bundled guest: see `bootFromImage`. KVM and one vCPU only. */
  readonly bootImage?: Uint8Array;
  /** A Linux to boot instead of the bundled guest: see `bootLinux`. KVM only. */
  readonly linux?: LinuxBoot;
  /**
   * The guest's processor; KVM only. Default `host`, all that this host's KVM offers: with another model two different hosts agree.
   */
  readonly cpu?: CpuModel;
  /** The virtio devices of a machine with `linux`. Default: none. */
  readonly virtio?: VirtioChoice;
  /** Allow RAM that is larger than the host's memory, for a sparse guest. Default false. */
  readonly overcommit?: boolean;
  /**
   * Whether each block of RAM is a memory file, which a new VMM on this host can map too (`RamBlock.shared`). Default: anonymous memory, in
   * huge pages if the host has them.
   */
  readonly memoryFiles?: boolean;
  /**
   * KVM only: log the writes of each vCPU in a dirty ring of this many entries (`true`: as many as KVM allows) instead of KVM's dirty
   * log. Each host chooses for itself. Default false.
   */
  readonly dirtyRing?: number | boolean;
}

/** @throws GodwitError GODWIT_INVALID_ARGUMENT */
export function checkShape({
  memoryBytes,
  vcpus,
  boot,
}: Pick<MachineDescription, 'memoryBytes' | 'vcpus' | 'boot'>): void {
  ramBlocks(memoryBytes);
  // The bundled guest's program has tables for so many.
  const most = boot === 'linux' ? MAX_VCPUS : MAXIMUM_VCPUS;
  if (!Number.isInteger(vcpus) || vcpus < 1 || vcpus > most) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `this machine has 1 to ${most} vCPUs, got ${vcpus}`);
  }
}

/**
 * Checks a description that came from a peer, and returns it.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT when it is not a description, or one of another kind of machine
 */
export function parseDescription(description: unknown, kind: MachineKind): MachineDescription {
  const given = (typeof description === 'object' && description !== null ? description : {}) as Record<string, unknown>;
  const { kind: givenKind, memoryBytes, vcpus, boot } = given;
  const knownBoot = boot === undefined || (kind === 'kvm' && BOOTS.includes(boot));
  if (givenKind !== kind || typeof memoryBytes !== 'number' || typeof vcpus !== 'number' || !knownBoot) {
    const boots = kind === 'kvm' ? ", boot: nothing, 'image' or 'linux'" : '';
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `a machine's description is { kind: '${kind}', memoryBytes, vcpus${boots} }, got ${JSON.stringify(description)}`,
    );
  }
  checkShape({ memoryBytes, vcpus, ...(boot === 'linux' && { boot }) });
  const virtio = parseVirtio(given['virtio']);
  if (virtio.length > 0 && boot !== 'linux') {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', 'only a machine that runs a Linux has virtio devices');
  }
  const cpu = kind === 'kvm' ? parseCpu(given['cpu']) : undefined;
  return {
    ...{ kind, memoryBytes, vcpus },
    ...(cpu === undefined ? {} : { cpu }),
    ...(boot === undefined ? {} : { boot: boot as MachineBoot }),
    ...(virtio.length === 0 ? {} : { virtio }),
  };
}

/** The guest's boot parameters for a workload, with its pages placed in RAM. */
export function bootParamsFor({ memoryBytes, vcpus, workload = {} }: MachineConfig): BootParams {
  const pages = Math.ceil((workload.workingSetBytes ?? 0) / PAGE_SIZE);
  const low = Math.min(memoryBytes, RAM_LOW_LIMIT);
  try {
    const { ranges, tables } = placeWorkingSet({ low, high: memoryBytes - low }, vcpus, pages);
    return {
      vcpus,
      ranges,
      tables,
      order: workload.order ?? 'sequential',
      wholePages: workload.wholePages ?? false,
      console: workload.console ?? 'line',
      pagesPerSecond: Math.ceil((workload.pagesPerSecond ?? 0) / vcpus),
      heartbeatMicroseconds: workload.heartbeatMicroseconds ?? DEFAULT_HEARTBEAT_MICROSECONDS,
      seed: workload.seed ?? 1,
    };
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    const ram =
      low < memoryBytes
        ? `${memoryBytes} bytes of RAM, split at 0x${RAM_HIGH_ADDRESS.toString(16)}`
        : `${memoryBytes} bytes of RAM`;
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `the workload does not fit a machine of ${ram}: ${why}`, {
      cause: error,
    });
  }
}
