import {
  assertMayChange,
  type DirtyTracker,
  GodwitError,
  type RunState as GuestRunState,
  type MigratableDevice,
  type ThrottleOptions,
} from '@godwit/core';
import { createGuestMemory, type MappedGuestMemory, PagemapTracker } from '@godwit/linux';
import type { Observable } from 'rxjs';
import { Mailbox } from '../devices/mailbox.js';
import { PauseClockState } from '../devices/pause-clock.js';
import { encodeBootParams } from '../guest/boot-params.js';
import type { GuestRam } from '../guest/guest-ram.js';
import { PARAMS_ADDRESS } from '../guest/layout.js';
import { decodeDefectPort } from '../guest/ports.js';
import { ConsoleOutput } from '../machine/console-output.js';
import { withinMilliseconds } from '../machine/deadline.js';
import {
  bootParamsFor,
  checkShape,
  type MachineConfig,
  type MachineDescription,
  parseDescription,
} from '../machine/machine-config.js';
import { ramBlocks, ramOf } from '../machine/memory-map.js';
import { RunState } from '../machine/run-state.js';
import type { MachineEvent, VirtualMachine } from '../machine/virtual-machine.js';
import { SharedBoard } from '../vcpu/shared-board.js';
import { throttleFraction } from '../vcpu/throttle.js';
import { SoftwareCpu } from './software-cpu.js';

/** How long the thread may take to start, in milliseconds: on a busy host it takes seconds. */
const START_MS = 60_000;
/** How long the guest may take to stop, in milliseconds. It checks for a request every millisecond, but its thread starts slowly. */
const STOP_MS = 30_000;

/**
 * The machine for hosts without KVM: the same memory, mailbox, clock and console, and the bundled guest's workload as JavaScript in one
 * worker thread. Every writer uses the one mapping of this process, so that one pagemap tracker sees all writes.
 */
export class SoftwareMachine implements VirtualMachine {
  readonly description: MachineDescription;
  readonly memory: MappedGuestMemory;
  readonly ram: GuestRam;
  readonly trackers: readonly DirtyTracker[];
  readonly devices: readonly MigratableDevice[];
  readonly console: Observable<string>;
  readonly events: Observable<MachineEvent>;
  readonly #board = new SharedBoard();
  readonly #cpu: SoftwareCpu;
  readonly #mailbox: Mailbox;
  readonly #clock: PauseClockState;
  readonly #output: ConsoleOutput;
  readonly #run: RunState;
  readonly #onExit = (): void => this.#cpu.tellToStop();

  private constructor(description: MachineDescription, overcommit: boolean) {
    this.description = description;
    this.memory = createGuestMemory({ blocks: ramBlocks(description.memoryBytes), overcommit });
    this.ram = ramOf(this.memory);
    this.#mailbox = new Mailbox(this.ram, this.memory);
    this.#clock = new PauseClockState(this.#board, description.vcpus);
    this.#output = new ConsoleOutput(this.#board);
    this.#run = new RunState({ stop: () => this.#stop(), start: () => this.#start(), free: () => this.#free() });
    this.console = this.#output.text.asObservable();
    this.events = this.#run.events.asObservable();
    this.#cpu = new SoftwareCpu(description.vcpus, this.#board, this.memory.attachment(), {
      onConsole: () => this.#output.announced(),
      onDefect: (value) => this.#run.events.next({ type: 'defect', ...decodeDefectPort(value) }),
      onFailed: (cause) =>
        this.#run.crash(
          () => new GodwitError('GODWIT_GUEST_CRASHED', `the software guest failed: ${cause.message}`, { cause }),
        ),
    });
    this.trackers = [PagemapTracker.forMemory(this.memory)];
    this.devices = [this.#cpu, this.#clock, this.#mailbox];
    process.once('exit', this.#onExit);
  }

  /**
   * Makes a machine with the workload's parameters loaded. It is paused: `resume` starts it.
   *
   * @throws GodwitError GODWIT_INVALID_ARGUMENT, GODWIT_OUT_OF_MEMORY
   */
  static async create(config: MachineConfig): Promise<SoftwareMachine> {
    const { memoryBytes, vcpus } = config;
    checkShape(config);
    if (config.program !== undefined) {
      throw new GodwitError('GODWIT_INVALID_ARGUMENT', 'a software machine runs the bundled workload only');
    }
    const params = encodeBootParams(bootParamsFor(config));
    const machine = new SoftwareMachine({ kind: 'software', memoryBytes, vcpus }, config.overcommit ?? false);
    machine.ram.view(PARAMS_ADDRESS, params.byteLength).set(params);
    return machine;
  }

  /** Makes the destination's machine of a migration, with empty RAM (all holes). See `Machine.fromDescription`. */
  static async fromDescription(
    description: unknown,
    options: { readonly overcommit?: boolean } = {},
  ): Promise<SoftwareMachine> {
    return new SoftwareMachine(parseDescription(description, 'software'), options.overcommit ?? false);
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

  /** Resolves when the guest's thread has started. See `Machine.prepared`. */
  async prepared(): Promise<void> {
    await withinMilliseconds(START_MS, 'the thread of the software guest did not start', this.#cpu.started);
    this.#run.requireAlive();
  }

  /** @param signal undoes the pause, once the guest has stopped: see `RunState.pause` */
  pause(signal?: AbortSignal): Promise<void> {
    return this.#run.pause(signal);
  }

  /** @throws GodwitError GODWIT_GUEST_CRASHED when the guest has failed, GODWIT_INVALID_STATE when closed */
  resume(): Promise<void> {
    return this.#run.resume();
  }

  /** See `Machine.rehearsePause`. */
  rehearsePause(signal?: AbortSignal): Promise<number> {
    const rehearsal = async (): Promise<number> => {
      const start = performance.now();
      await withinMilliseconds(STOP_MS, 'the software guest did not answer', this.#cpu.rehearse(), signal);
      return performance.now() - start;
    };
    return this.#run.during('running', rehearsal, 0);
  }

  /** See `Machine.throttle`. One thread runs all vCPUs, so that they are held back together. */
  throttle(fraction: number, { longestMs = Number.POSITIVE_INFINITY }: Partial<ThrottleOptions> = {}): void {
    if (this.#board.setThrottle(0, throttleFraction(fraction), longestMs)) this.#board.announceChange(0);
  }

  /** The time for which the throttle has held back the guest so far, in milliseconds. */
  heldMs(): readonly number[] {
    return [this.#board.heldMs(0)];
  }

  abandon(_reason: Error): Promise<void> {
    return this.close();
  }

  async close(): Promise<void> {
    // This check comes before anything is freed, since a migration under way reads this memory.
    assertMayChange(this.memory, 'close the machine');
    await this.#run.close();
  }

  #start(): void {
    this.#cpu.run();
    this.#mailbox.start();
  }

  /**
   * Stops the guest. The wait cannot be ended early: a guest that has seen the request stops, and can be started again only after that.
   */
  async #stop(): Promise<void> {
    this.#mailbox.stop();
    await withinMilliseconds(STOP_MS, 'the software guest did not stop', this.#cpu.stop());
    this.#output.drain();
  }

  async #free(): Promise<void> {
    await withinMilliseconds(STOP_MS, 'the thread of the software guest did not end', this.#cpu.end());
    process.removeListener('exit', this.#onExit);
    this.#mailbox.stop();
    await Promise.allSettled(this.trackers.map((tracker) => tracker.stop()));
    this.#output.close();
    this.memory.close();
  }
}
