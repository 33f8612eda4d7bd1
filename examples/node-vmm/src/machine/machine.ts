import {
  assertMayChange,
  type DirtyTracker,
  type FreePages,
  GodwitError,
  type RunState as GuestRunState,
  type MigratableDevice,
  SoftwareTracker,
  type ThrottleOptions,
} from '@godwit/core';
import { createGuestMemory, installWakeSignal, type KvmVcpu, type MappedGuestMemory, probeKvm } from '@godwit/linux';
import type { CpuModel } from '@godwit/linux/kvm';
import type { Observable } from 'rxjs';
import { Chipset } from '../devices/chipset.js';
import { CmosState } from '../devices/cmos-clock.js';
import { GENERATION_IRQ, GenerationId } from '../devices/generation-id.js';
import { Mailbox } from '../devices/mailbox.js';
import { PauseClockState } from '../devices/pause-clock.js';
import { POWER_BUTTON_IRQ, PowerState } from '../devices/power-port.js';
import { SerialConsole } from '../devices/serial-console.js';
import { SERIAL_IRQ } from '../devices/serial-port.js';
import { SerialWords } from '../devices/serial-words.js';
import { encodeBootParams } from '../guest/boot-params.js';
import type { GuestRam } from '../guest/guest-ram.js';
import { guestImage } from '../guest/image.js';
import { IMAGE_ADDRESS, PARAMS_ADDRESS } from '../guest/layout.js';
import { decodeDefectPort } from '../guest/ports.js';
import { bootLinux } from '../linux/boot-linux.js';
import type { LinuxBoot } from '../linux/boot-plan.js';
import { type CpuDescription, describeCpu, refuseOtherCpu } from '../vcpu/cpu-description.js';
import { SharedBoard } from '../vcpu/shared-board.js';
import { VcpuDevice } from '../vcpu/vcpu-device.js';
import { VcpuThreads } from '../vcpu/vcpu-threads.js';
import { BalloonDevice } from '../virtio/balloon-device.js';
import { ConsoleDevice } from '../virtio/console-device.js';
import { DeviceMemory } from '../virtio/device-memory.js';
import { QueueEvents } from '../virtio/queue-events.js';
import { VirtioBus } from '../virtio/virtio-bus.js';
import type { VirtioDevice } from '../virtio/virtio-device.js';
import {
  arrivingVirtio,
  closeDevices,
  newVirtio,
  type VirtioHost,
  type VirtioParts,
} from '../virtio/virtio-devices.js';
import { VirtioWords } from '../virtio/virtio-words.js';
import { bootFromImage, checkBootImage } from './boot-image.js';
import { ConsoleOutput } from './console-output.js';
import { crashError } from './crash-error.js';
import { withinMilliseconds } from './deadline.js';
import { KvmHardware } from './kvm-hardware.js';
import { enterLongMode, writeIdentityMap } from './long-mode.js';
import {
  bootParamsFor,
  checkShape,
  type MachineConfig,
  type MachineDescription,
  parseDescription,
} from './machine-config.js';
import { checkRam, endOfRam, ramBlocks, ramOf } from './memory-map.js';
import { RunState } from './run-state.js';
import type { MachineEvent, VirtualMachine } from './virtual-machine.js';

/** How long virtio devices may take to complete what they have begun, in milliseconds: a slow disk writes its cache. */
const DEVICES_MS = 60_000;

/** The number of rehearsed saves. */
const REHEARSALS = 3;
let savesRehearsed = false;

const NO_VIRTIO: VirtioParts = { description: [], devices: [] };

/** The options that each host chooses for itself. */
type HostOptions = Pick<MachineConfig, 'overcommit' | 'dirtyRing' | 'memoryFiles'>;

/** The same, and the CPU model of a new guest. */
type BuildOptions = HostOptions & Pick<MachineConfig, 'cpu'>;

/** Whether `Machine` works here. */
export function hasKvm(): boolean {
  return probeKvm().usable;
}

/**
 * A virtual machine on KVM.
 *
 * Each vCPU is a worker thread in KVM_RUN (`VcpuRunner`, `vcpu-thread.ts`); everything else is on the main thread. While the machine
 * runs, guest memory is written only by the vCPUs (seen by KVM's dirty log, or dirty rings), and by the mailbox and the virtio devices
 * (which mark their writes).
 */
export class Machine implements VirtualMachine {
  readonly description: MachineDescription;
  readonly memory: MappedGuestMemory;
  readonly ram: GuestRam;
  readonly trackers: readonly DirtyTracker[];
  readonly devices: readonly MigratableDevice[];
  readonly console: Observable<string>;
  readonly events: Observable<MachineEvent>;
  /**
   * How much each vCPU has dirtied since the last call, by its dirty ring or else its page faults; absent where page faults do not show it:
   * `WriteFaults`.
   */
  readonly vcpuWrites?: () => readonly number[];
  /** The free pages of a guest that has a balloon. */
  readonly freePages?: FreePages;
  readonly #board = new SharedBoard();
  readonly #hardware: KvmHardware;
  readonly #threads: VcpuThreads;
  readonly #mailbox: Mailbox | undefined;
  readonly #virtio: VirtioBus;
  readonly #queueEvents: QueueEvents | undefined;
  /** The virtio console, which then gets what is typed. */
  readonly #hvc: ConsoleDevice | undefined;
  readonly #balloon: BalloonDevice | undefined;
  readonly #clock: PauseClockState;
  readonly #output: ConsoleOutput;
  readonly #serial: SerialConsole;
  readonly #run: RunState;
  readonly #generation: GenerationId | undefined;
  /** Whether the guest is that of a snapshot, and has not run here. */
  #isCopy = false;
  /** Whether the machine waits for a guest, and nothing is loaded yet. */
  readonly #arriving: boolean;
  #rehearsed: Promise<void> | undefined;
  /** Ends the threads at `process.exit`, which waits for worker threads: one in KVM_RUN would never end. */
  readonly #onExit = (): void => {
    this.#threads.tellToEnd();
    this.#queueEvents?.tellToEnd();
  };

  private constructor(
    description: MachineDescription,
    memory: MappedGuestMemory,
    hardware: KvmHardware,
    virtio: readonly VirtioDevice[],
    arriving: boolean,
  ) {
    this.#arriving = arriving;
    this.description = description;
    this.memory = memory;
    this.ram = ramOf(memory);
    this.#hardware = hardware;
    const mailboxTracker = description.boot !== undefined ? undefined : new SoftwareTracker(memory, 'mailbox');
    this.#mailbox = mailboxTracker && new Mailbox(this.ram, memory, mailboxTracker);
    this.#serial = new SerialConsole(
      new SerialWords(this.#board),
      (high) => hardware.vm.setIrqLine(SERIAL_IRQ, high),
      () => this.#output.drain(),
    );
    if (description.boot === 'linux') {
      this.#generation = new GenerationId(memory, () => this.#pulse(GENERATION_IRQ));
    }
    this.#clock = new PauseClockState(this.#board, description.vcpus);
    this.#output = new ConsoleOutput(this.#board);
    this.#hvc = virtio.find((device) => device instanceof ConsoleDevice);
    const balloon = virtio.find((device) => device instanceof BalloonDevice);
    this.#balloon = balloon;
    if (balloon !== undefined) {
      this.freePages = { name: balloon.id, collect: (into, signal) => balloon.collect(into, signal) };
    }
    this.#hvc?.connect((text) => this.#output.print(text));
    this.#run = new RunState({
      stop: (signal) => this.#stop(signal),
      start: () => this.#start(),
      free: () => this.#free(),
    });
    this.console = this.#output.text.asObservable();
    this.events = this.#run.events.asObservable();
    const writes = hardware.writes();
    if (writes.ofVcpus !== undefined) this.vcpuWrites = writes.ofVcpus;
    const virtioTracker = virtio.length === 0 ? undefined : new SoftwareTracker(memory, 'virtio');
    this.#virtio = new VirtioBus(virtio, {
      words: new VirtioWords(this.#board.virtio),
      memory: new DeviceMemory(memory, virtioTracker),
      setIrqLine: (irq, high) => hardware.vm.setIrqLine(irq, high),
      onNeedsReset: (device, reason) => this.#run.events.next({ type: 'needs-reset', device, reason }),
    });
    this.trackers = [writes.tracker, mailboxTracker, virtioTracker].filter((tracker) => tracker !== undefined);
    this.devices = [
      new Chipset(hardware.vm),
      ...hardware.vcpus.map((vcpu) => new VcpuDevice(vcpu, hardware, memory, () => this.#threads.started)),
      this.#serial,
      this.#clock,
      ...(this.#mailbox ? [this.#mailbox] : []),
      ...(this.#generation ? [new PowerState(this.#board), new CmosState(this.#board), this.#generation] : []),
      ...this.#virtio.states,
    ];
    this.#queueEvents = QueueEvents.of(hardware.vm, {
      words: new VirtioWords(this.#board.virtio),
      queues: virtio.map(({ queues }) => queues.length),
      onNotified: () => this.#virtio.notified(),
    });
    installWakeSignal();
    const parts = {
      ...{ board: this.#board, memory: memory.attachment(), ringCalls: writes.ringCalls },
      ...{ vmFd: hardware.vm.fd, boot: description.boot, virtioDevices: virtio.length },
    };
    this.#threads = new VcpuThreads(hardware.vcpus, parts, {
      onConsole: () => this.#output.announced(),
      onRegister: (index) => this.#virtio.answer(index),
      onNotified: () => this.#virtio.notified(),
      onDefect: (value) => this.#run.events.next({ type: 'defect', ...decodeDefectPort(value) }),
      onEnd: (end) => this.#run.end(end),
      onFailed: (index, reason, cause) =>
        this.#run.crash(() => crashError(hardware.vcpus[index], index, reason, cause)),
    });
    process.once('exit', this.#onExit);
  }

  /**
   * Makes a machine with the bundled guest (or `config.program`, `config.bootImage` or `config.linux`) loaded. It is paused: `resume` starts it.
   *
   * @throws GodwitError GODWIT_INVALID_ARGUMENT, GODWIT_OUT_OF_MEMORY; GODWIT_UNSUPPORTED or GODWIT_PERMISSION when
   * there is no KVM to be used
   */
  static async create(config: MachineConfig): Promise<Machine> {
    const machine = await Machine.#create(config);
    await machine.#rehearseSaves();
    return machine;
  }

  static async #create(config: MachineConfig): Promise<Machine> {
    const { memoryBytes, vcpus, program } = config;
    checkShape({ memoryBytes, vcpus, ...(config.linux !== undefined && { boot: 'linux' }) });
    if (config.bootImage !== undefined) return Machine.#fromImage(config, config.bootImage);
    if (config.linux !== undefined) return Machine.#fromLinux(config, config.linux);
    const image = program ?? { address: IMAGE_ADDRESS, bytes: guestImage() };
    const params = program === undefined ? encodeBootParams(bootParamsFor(config)) : undefined;
    const machine = await Machine.#build({ kind: 'kvm', memoryBytes, vcpus }, config, false);
    try {
      await machine.#threads.started;
      const { ram } = machine;
      writeIdentityMap(ram, endOfRam(machine.memory));
      ram.view(image.address, image.bytes.byteLength).set(image.bytes);
      if (params !== undefined) ram.view(PARAMS_ADDRESS, params.byteLength).set(params);
      for (const vcpu of machine.#hardware.vcpus) {
        enterLongMode(vcpu, { rip: image.address, rdi: PARAMS_ADDRESS, rsi: vcpu.id });
      }
      return machine;
    } catch (error) {
      await machine.close();
      throw error;
    }
  }

  static async #fromImage(config: MachineConfig, image: Uint8Array): Promise<Machine> {
    const { memoryBytes, vcpus } = config;
    checkBootImage(image, vcpus);
    const machine = await Machine.#build({ kind: 'kvm', memoryBytes, vcpus, boot: 'image' }, config, false);
    try {
      await machine.#threads.started;
      bootFromImage(machine.ram, machine.#hardware.vcpus[0] as KvmVcpu, image);
      return machine;
    } catch (error) {
      await machine.close();
      throw error;
    }
  }

  static async #fromLinux(config: MachineConfig, linux: LinuxBoot): Promise<Machine> {
    const { memoryBytes, vcpus } = config;
    const virtio = await newVirtio(config.virtio ?? {});
    const machine = await Machine.#build({ kind: 'kvm', memoryBytes, vcpus, boot: 'linux' }, config, false, virtio);
    try {
      await machine.#threads.started;
      bootLinux(machine.memory, machine.ram, machine.#hardware.vcpus, linux, virtio.devices.length);
      machine.#generation?.begin();
      return machine;
    } catch (error) {
      await machine.close();
      throw error;
    }
  }

  /**
   * Makes the destination's machine of a migration: the same machine with empty RAM (all holes) and nothing loaded. Its vCPU threads
   * start while RAM arrives; loading a vCPU's state waits for them.
   *
   * @param description the source machine's description, as it came over the link
   * @param options.disk the file that is the guest's disk on this host: the source's own, or a copy
   * @param options.net where the frames of the guest's network card go on this host
   * @param options.memory RAM that the source's machine has too, on this host, instead of RAM of its own: its blocks are declared shared
   * at both ends, and the guest moves without it. The machine closes it
   * @param options.restored whether the guest comes from a snapshot, from which others may come too: it gets another identifier (VMGenID)
   * before it runs. Default false: the guest moves
   * @throws GodwitError GODWIT_INVALID_ARGUMENT when it is not the RAM of such a machine, GODWIT_UNSUPPORTED when this host does not have
   * what the guest's devices need, or cannot be its processor
   */
  static async fromDescription(
    description: unknown,
    options: HostOptions & VirtioHost & { readonly memory?: MappedGuestMemory; readonly restored?: boolean } = {},
  ): Promise<Machine> {
    const parsed = parseDescription(description, 'kvm');
    const virtio = await arrivingVirtio(parsed.virtio ?? [], options);
    const machine = await Machine.#build(parsed, options, true, virtio, options.memory);
    machine.#isCopy = options.restored ?? false;
    return machine;
  }

  /** @param virtio the devices, which are freed if there is no machine */
  static async #build(
    description: MachineDescription,
    { overcommit = false, dirtyRing = false, memoryFiles = false, cpu = 'host' }: BuildOptions,
    arriving: boolean,
    virtio: VirtioParts = NO_VIRTIO,
    given?: MappedGuestMemory,
  ): Promise<Machine> {
    const { devices, description: named } = virtio;
    let memory: MappedGuestMemory | undefined;
    try {
      const layout = ramBlocks(description.memoryBytes);
      if (given !== undefined) checkRam(given, layout);
      const backing = memoryFiles ? 'file' : 'auto';
      memory = given ?? createGuestMemory({ blocks: layout, overcommit, backing });
      const { vcpus, boot } = description;
      // A guest that arrives brings its own CPUID, which may have whatever this host has.
      const hardware = new KvmHardware(memory, { vcpus, dirtyRing, boot, ...(arriving ? {} : { cpu }) });
      const told = agreedCpu(hardware, arriving ? description.cpu : cpu);
      const whole = {
        ...description,
        ...(told === undefined ? {} : { cpu: told }),
        ...(named.length === 0 ? {} : { virtio: named }),
      };
      return new Machine(whole, memory, hardware, devices, arriving);
    } catch (error) {
      memory?.close();
      await closeDevices(devices);
      throw error;
    }
  }

  get state(): VirtualMachine['state'] {
    return this.#run.state;
  }

  get guestMicroseconds(): number {
    return this.#clock.microseconds;
  }

  runState(): GuestRunState {
    return this.#run.guest;
  }

  /** Adds input to the guest's virtio console, or else its serial port. Input that the guest has not read yet moves with the guest. */
  type(bytes: Uint8Array): void {
    this.#run.requireAlive();
    if (this.#hvc === undefined) this.#serial.type(bytes);
    else this.#hvc.typeIn(bytes);
  }

  /**
   * Resolves when every vCPU's thread has started and waits for orders, and, in a machine that is made for a migration, each vCPU's state
   * was loaded once to measure the time of a load: 100 to 500 ms after the machine was made.
   *
   * @throws GodwitError GODWIT_GUEST_CRASHED when a thread could not start, GODWIT_INVALID_STATE when closed
   */
  async prepared(): Promise<void> {
    await this.#threads.started;
    this.#run.requireAlive();
    // V8 counts a view as memory of its full size, and may collect garbage when the view is made: the views are made here, and not while a
    // guest waits.
    for (const block of this.memory.blocks) block.view(0, 1);
    this.#rehearsed ??= this.#run.during('paused', () => this.#rehearseLoads(), undefined);
    await this.#rehearsed;
    this.#run.requireAlive();
  }

  /**
   * Stops the mailbox and all vCPUs, completes I/O that they have begun, also that of the virtio devices, and delivers all console text.
   * Takes about 0.5 ms, and as long as the requests that a disk has in hand.
   *
   * @param signal undoes the pause: see `RunState.pause`
   * @throws GodwitError GODWIT_VM_FAILED when a vCPU does not stop, GODWIT_CANCELLED when `signal` aborted; the guest
   * runs on
   */
  pause(signal?: AbortSignal): Promise<void> {
    return this.#run.pause(signal);
  }

  /**
   * Runs the guest; that of a snapshot gets another identifier first, once the page of it is there.
   *
   * @throws GodwitError GODWIT_GUEST_CRASHED when the guest has crashed, GODWIT_INVALID_STATE when closed
   */
  async resume(): Promise<void> {
    if (this.#isCopy) {
      this.#isCopy = false;
      await this.#generation?.renew();
    }
    await this.#run.resume();
  }

  /** The identifier of the machine's generation, as a Linux sees it; undefined for other guests. */
  get generation(): Uint8Array | undefined {
    return this.#generation?.identifier;
  }

  /**
   * Presses the power button, for which a Linux shuts down, if it is set up so.
   *
   * @throws GodwitError GODWIT_UNSUPPORTED for another guest, which has no button; GODWIT_INVALID_STATE while it is paused
   */
  pressPowerButton(): void {
    this.#run.requireAlive();
    if (this.description.boot !== 'linux') {
      throw new GodwitError('GODWIT_UNSUPPORTED', 'this guest has no power button: only a Linux (--kernel) has one');
    }
    if (this.#run.state !== 'running') {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        'the guest is paused, and would not see its power button: resume it',
      );
    }
    this.#pulse(POWER_BUTTON_IRQ);
  }

  #pulse(irq: number): void {
    this.#hardware.vm.setIrqLine(irq, true);
    this.#hardware.vm.setIrqLine(irq, false);
  }

  /**
   * Kicks every vCPU out of the guest, as `pause` does, and lets it enter again at once.
   *
   * @returns milliseconds until the last vCPU was out; 0 while the guest does not run
   * @throws GodwitError GODWIT_VM_FAILED when a vCPU does not stop; the reason of `signal`
   */
  rehearsePause(signal?: AbortSignal): Promise<number> {
    return this.#run.during('running', () => this.#threads.rehearse(signal), 0);
  }

  /**
   * Holds each vCPU back for a fraction of the time, at most 0.99, in slices: see `sliceOf`. Takes effect at once: a vCPU that is held is
   * woken.
   *
   * @throws RangeError when a fraction is not between 0 and 1
   */
  throttle(fraction: number, options: Partial<ThrottleOptions> = {}): void {
    this.#threads.throttle(fraction, options, this.#run.state === 'running');
  }

  /** Bytes that the guest has put into its balloon; undefined without one. */
  get balloonBytes(): number | undefined {
    return this.#balloon?.heldBytes;
  }

  /**
   * Asks the guest to put so many bytes into its balloon, which are the host's then, or to take them out again.
   *
   * @throws GodwitError GODWIT_UNSUPPORTED for a guest without a balloon
   */
  inflateBalloon(bytes: number): void {
    this.#run.requireAlive();
    if (this.#balloon === undefined) {
      throw new GodwitError(
        'GODWIT_UNSUPPORTED',
        'this guest has no balloon: only a Linux that was booted with one has',
      );
    }
    this.#balloon.targetBytes = bytes;
  }

  /** The time for which the throttle has held back each vCPU so far, in milliseconds. */
  heldMs(): readonly number[] {
    return this.#threads.heldMs();
  }

  abandon(_reason: Error): Promise<void> {
    return this.close();
  }

  async close(): Promise<void> {
    // This check comes before anything is freed, since a migration under way reads this memory.
    assertMayChange(this.memory, 'close the machine');
    await this.#run.close();
  }

  async #rehearseLoads(): Promise<void> {
    if (!this.#arriving) return;
    for (const device of this.devices) {
      if (device instanceof VcpuDevice) await device.rehearseLoad();
      if (device instanceof Chipset) device.rehearseLoad();
    }
  }

  /**
   * Saves the initial state that KVM keeps, and throws it away: the first save of a process takes several times as long as the next. A
   * failure is ignored: the actual save fails too, with the reason.
   */
  async #rehearseSaves(): Promise<void> {
    if (savesRehearsed) return;
    savesRehearsed = true;
    try {
      for (const device of this.devices) {
        if (!(device instanceof VcpuDevice || device instanceof Chipset)) continue;
        for (let i = 0; i < REHEARSALS; i++) for await (const state of device.save()) void state;
      }
    } catch {
      // This is only a rehearsal.
    }
  }

  #start(): void {
    this.#virtio.start();
    this.#threads.run();
    this.#mailbox?.start();
  }

  async #stop(signal?: AbortSignal): Promise<void> {
    this.#mailbox?.stop();
    await this.#threads.park(signal);
    // After the vCPUs, which may have asked for more until then.
    const completed = this.#virtio.stop();
    await withinMilliseconds(DEVICES_MS, 'the virtio devices did not complete their requests', completed, signal);
    this.#output.drain();
  }

  async #free(): Promise<void> {
    await this.#threads.end();
    await this.#queueEvents?.close();
    process.removeListener('exit', this.#onExit);
    this.#mailbox?.stop();
    this.#serial.close();
    // A tracker that fails to stop is ignored: closing the VM frees what it holds.
    await Promise.allSettled(this.trackers.map((tracker) => tracker.stop()));
    this.#output.close();
    await this.#virtio.close();
    this.#hardware.close();
    this.memory.close();
  }
}

/**
 * The description of a machine's processor: of a new one's model, or that of a guest that arrives, if this host can be its processor.
 *
 * @param wanted undefined for a guest whose source tells nothing
 * @throws GodwitError GODWIT_UNSUPPORTED; the hardware is closed then
 */
function agreedCpu(hardware: KvmHardware, wanted: CpuModel | CpuDescription | undefined): CpuDescription | undefined {
  const { msrIndices } = hardware;
  const first = hardware.vcpus[0] as KvmVcpu;
  try {
    if (typeof wanted === 'string') return describeCpu(wanted, first, msrIndices);
    if (wanted !== undefined) refuseOtherCpu(wanted, first, msrIndices);
    return wanted;
  } catch (error) {
    hardware.close();
    throw error;
  }
}
