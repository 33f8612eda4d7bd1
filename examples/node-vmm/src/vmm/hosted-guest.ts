import { freemem } from 'node:os';
import { type DirtyTracker, GodwitError, type MigratableVm } from '@godwit/core';
import { hostSupport, probeKvm } from '@godwit/linux';
import { decodeBootParams } from '../guest/boot-params.js';
import { checkMemory, describeDefect } from '../guest/check-memory.js';
import { guestImage } from '../guest/image.js';
import { PAGE_SIZE, PARAMS_ADDRESS } from '../guest/layout.js';
import { Machine } from '../machine/machine.js';
import type { MachineConfig, MachineDescription } from '../machine/machine-config.js';
import type { VirtualMachine } from '../machine/virtual-machine.js';
import { SoftwareMachine } from '../software/software-machine.js';
import type { VirtioHost } from '../virtio/virtio-devices.js';
import type { GuestSpec, ImageSpec, LinuxSpec } from './guest-spec.js';

const BOOTED_FROM = { image: 'an image', linux: 'a Linux kernel' } as const;

export interface CheckReport {
  readonly pages: number;
  readonly defects: readonly string[];
}

/** The choices of a guest's VMM on this host, and its callbacks. */
export interface GuestSurroundings {
  /** Whether the writes of vCPUs are logged in KVM's dirty rings instead of its dirty log. */
  readonly dirtyRing: boolean;
  /** Name of a dirty tracker that must report nothing: for the tests that the demo notices lost pages. */
  readonly blindTracker: string | undefined;
  /** Whether the guest that arrives is that of a snapshot. Default false. */
  readonly restored?: boolean;
  /** What the virtio devices of a guest that arrives are connected to. Default: nothing. */
  readonly virtio?: VirtioHost;
  readonly onConsole: (text: string) => void;
  /** The guest cannot go on. A defect that the guest finds in its memory is a line on its console. */
  readonly onCrashed: (error: GodwitError) => void;
  /** The guest has ended itself: by a shutdown or a reset. */
  readonly onEnded?: (error: GodwitError) => void;
  /** The guest has broken a virtio device, and goes on without it until its driver resets it. */
  readonly onDeviceBroken?: (device: string, reason: string) => void;
}

/** Chooses KVM if it works and `wantsKvm`, else the software guest, with a note for the user. */
export function chooseGuestKind(wantsKvm: boolean): { readonly kind: GuestSpec['kind']; readonly note?: string } {
  const kvm = wantsKvm ? probeKvm() : { usable: false as const, reason: '--no-kvm' };
  if (kvm.usable) return { kind: 'kvm' };
  return { kind: 'software', note: `no KVM (${kvm.reason}): a worker thread writes real memory, tracked by pagemap` };
}

/** The reason why the writes of a guest of this kind cannot be logged in dirty rings here; undefined where they can. */
export function dirtyRingProblem(kind: GuestSpec['kind']): string | undefined {
  if (kind === 'software') return 'dirty rings log what vCPUs on KVM write, and this guest has none';
  const support = hostSupport().kvmDirtyRing;
  return support.usable ? undefined : support.reason;
}

/** The guest of a VMM, which has booted here or arrived by a migration. */
export class HostedGuest {
  /** The machine, as the engine sees it. */
  readonly vm: MigratableVm;
  readonly #machine: VirtualMachine;

  private constructor(machine: VirtualMachine, surroundings: GuestSurroundings) {
    this.#machine = machine;
    this.vm = surroundings.blindTracker === undefined ? machine : blinded(machine, surroundings.blindTracker);
    machine.console.subscribe(surroundings.onConsole);
    machine.events.subscribe((event) => {
      if (event.type === 'crashed') surroundings.onCrashed(event.error);
      if (event.type === 'ended') surroundings.onEnded?.(event.error);
      if (event.type === 'needs-reset') surroundings.onDeviceBroken?.(event.device, event.reason);
    });
  }

  /** Boots a new guest; it is running when this resolves. */
  static async boot(spec: GuestSpec, surroundings: GuestSurroundings): Promise<HostedGuest> {
    const config: MachineConfig = {
      memoryBytes: spec.memoryBytes,
      vcpus: spec.vcpus,
      ...(spec.cpu === undefined ? {} : { cpu: spec.cpu }),
      // The guest writes only its working set, so that its RAM may be larger than the host's. Both hosts are on this machine.
      overcommit: spec.workingSetBytes * 2 < freemem() * 0.8,
      dirtyRing: surroundings.dirtyRing,
      workload: {
        workingSetBytes: spec.workingSetBytes,
        order: spec.order,
        wholePages: spec.wholePages,
        pagesPerSecond: spec.dirtyPagesPerSecond,
        heartbeatMicroseconds: spec.heartbeatMs * 1000,
        console: 'serial',
      },
    };
    const machine = await (spec.kind === 'kvm' ? Machine.create(config) : SoftwareMachine.create(config));
    return HostedGuest.#running(machine, surroundings);
  }

  /** Boots a flat image or a Linux on KVM: see `bootFromImage` and `bootLinux`. */
  static async bootOther(
    { memoryBytes, ...other }: ImageSpec | LinuxSpec,
    surroundings: GuestSurroundings,
  ): Promise<HostedGuest> {
    const { dirtyRing } = surroundings;
    const { cpu } = other;
    const what = other.kind === 'image' ? { vcpus: 1, bootImage: other.image, ...(cpu && { cpu }) } : other;
    const machine = await Machine.create({ memoryBytes, dirtyRing, ...what });
    return HostedGuest.#running(machine, surroundings);
  }

  static async #running(machine: VirtualMachine, surroundings: GuestSurroundings): Promise<HostedGuest> {
    try {
      const guest = new HostedGuest(machine, surroundings);
      await machine.resume();
      return guest;
    } catch (error) {
      // Its disk is in use by another VMM, say.
      await machine.close();
      throw error;
    }
  }

  /** Makes a machine for a guest that is about to arrive, from the description that its source sent. */
  static async arriving(description: unknown, surroundings: GuestSurroundings): Promise<HostedGuest> {
    const kind = (description as Partial<MachineDescription> | null)?.kind;
    const { dirtyRing, restored = false } = surroundings;
    const problem = dirtyRing ? dirtyRingProblem(kind === 'software' ? kind : 'kvm') : undefined;
    if (problem !== undefined) throw new GodwitError('GODWIT_UNSUPPORTED', problem);
    // The guest writes only its working set, so that its RAM may be larger than this machine's.
    const options = { overcommit: true };
    const machine = await (kind === 'software'
      ? SoftwareMachine.fromDescription(description, options)
      : Machine.fromDescription(description, { ...options, dirtyRing, restored, ...surroundings.virtio }));
    return new HostedGuest(machine, surroundings);
  }

  /** The description from which the destination makes the same machine. */
  get description(): MachineDescription {
    return this.#machine.description;
  }

  get state(): VirtualMachine['state'] {
    return this.#machine.state;
  }

  /** Pauses the guest until `resume`; a migration moves it paused. */
  pause(): Promise<void> {
    return this.#machine.pause();
  }

  /** Lets the guest run again. */
  resume(): Promise<void> {
    return this.#machine.resume();
  }

  /**
   * Pauses the guest, checks every page from outside, and lets it go on.
   *
   * @throws GodwitError GODWIT_UNSUPPORTED for a guest that was booted from an image or a kernel, GODWIT_INVALID_STATE for one that does not run
   */
  async check(): Promise<CheckReport> {
    const machine = this.#machine;
    if (machine.description.boot !== undefined) {
      throw new GodwitError(
        'GODWIT_UNSUPPORTED',
        `only the bundled guest can be checked; this one was booted from ${BOOTED_FROM[machine.description.boot]}`,
      );
    }
    if (machine.state === 'paused') {
      throw new GodwitError('GODWIT_INVALID_STATE', 'only a guest that runs is checked; this one is paused');
    }
    await machine.pause();
    try {
      const params = decodeBootParams(machine.ram.view(PARAMS_ADDRESS, PAGE_SIZE));
      const image = machine.description.kind === 'kvm' ? { image: guestImage() } : {};
      const report = checkMemory(machine.ram, params, image);
      const unlisted = report.defectCount - report.defects.length;
      return {
        pages: report.pages,
        defects: [...report.defects.map(describeDefect), ...(unlisted > 0 ? [`${unlisted} more`] : [])],
      };
    } finally {
      await machine.resume();
    }
  }

  /** Whether the guest reads input from its console. */
  get readsConsole(): boolean {
    return this.#machine.description.boot === 'linux';
  }

  /** Adds input to the guest's console. @throws GodwitError GODWIT_INVALID_STATE when the guest has ended, or does not read */
  type(bytes: Uint8Array): void {
    this.#machine.type?.(bytes);
  }

  /** Bytes that the guest has put into its balloon; undefined without one. */
  get balloonBytes(): number | undefined {
    return this.#machine.balloonBytes;
  }

  /** @throws GodwitError GODWIT_UNSUPPORTED for a guest without a balloon, GODWIT_INVALID_ARGUMENT for more than its memory */
  inflateBalloon(bytes: number): void {
    const { memoryBytes } = this.#machine.description;
    if (bytes > memoryBytes) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `the guest has ${memoryBytes} bytes of memory, got ${bytes} for its balloon`,
      );
    }
    if (this.#machine.inflateBalloon === undefined) throw without('balloon');
    this.#machine.inflateBalloon(bytes);
  }

  /** @throws GodwitError GODWIT_UNSUPPORTED for a guest without a power button, GODWIT_INVALID_STATE if it is paused */
  pressPowerButton(): void {
    if (this.#machine.pressPowerButton === undefined) throw without('power button');
    this.#machine.pressPowerButton();
  }

  /** Bytes of memory that the host kernel has allocated to the guest. */
  allocatedBytes(): number {
    return this.#machine.memory.allocatedBytes();
  }

  close(): Promise<void> {
    return this.#machine.close();
  }
}

function without(what: string): GodwitError {
  return new GodwitError('GODWIT_UNSUPPORTED', `this guest has no ${what}: only a Linux on KVM (--kernel) has one`);
}

/** The same machine with one tracker that reports nothing: a defect on purpose. */
function blinded(machine: VirtualMachine, name: string): MigratableVm {
  if (!machine.trackers.some((tracker) => tracker.name === name)) {
    const names = machine.trackers.map((tracker) => tracker.name).join(', ');
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `no dirty tracker is called ${name}: there are ${names}`);
  }
  return {
    memory: machine.memory,
    devices: machine.devices,
    trackers: machine.trackers.map((tracker) => (tracker.name === name ? blind(tracker) : tracker)),
    runState: () => machine.runState(),
    pause: (signal) => machine.pause(signal),
    resume: () => machine.resume(),
    prepared: () => machine.prepared(),
    rehearsePause: (signal) => machine.rehearsePause(signal),
    throttle: (fraction, options) => machine.throttle(fraction, options),
    ...(machine.freePages === undefined ? {} : { freePages: machine.freePages }),
    ...(machine.vcpuWrites === undefined ? {} : { vcpuWrites: () => machine.vcpuWrites?.() ?? [] }),
    abandon: (reason) => machine.abandon(reason),
  };
}

function blind(tracker: DirtyTracker): DirtyTracker {
  return { name: tracker.name, start: async () => {}, harvest: async () => {}, stop: async () => {} };
}
