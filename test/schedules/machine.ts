import type { MigratableVm, RunState } from '@godwit/core';
import { BufferMemory, type WriteLog } from '@godwit/core/testing';
import type { Call, Side } from './fault.js';
import type { Guest } from './guest.js';
import { type HostProcess, never } from './host-process.js';
import { JournalDevice } from './journal-device.js';
import { PAGE_BYTES, type Schedule } from './schedule.js';
import { firstDifference, MachineMemory } from './watched-memory.js';
import { WatchedTracker } from './watched-tracker.js';

/** How a fault changes a call: it takes longer, or fails. */
export interface Delay {
  /** Time that the call takes longer, in milliseconds; `undefined`: it never returns. */
  readonly ms: number | undefined;
  readonly fails: boolean;
  readonly obeysSignal: boolean;
}

/** The harness as its machines see it: they report calls, invariants that do not hold and notes for the trace. */
export interface MachineWatch {
  readonly schedule: Schedule;
  readonly guest: Guest<Machine>;
  /** Reports a call of the engine, which may trigger faults. Returns how the call is to be changed, if at all. */
  called(machine: Machine, call: Call): Delay | undefined;
  /** Reports an invariant that does not hold. */
  fault(kind: string, message: string): void;
  note(text: string): void;
  sleep(ms: number): Promise<void>;
  /** Whether no frame has crossed the network since the last call. */
  quiet(): boolean;
  readonly over: boolean;
}

/** A simulated VM in a process: its memory, trackers and devices, and whether the guest runs in it. */
export class Machine {
  readonly process: HostProcess;
  readonly side: Side;
  readonly buffers: BufferMemory;
  readonly memory: MachineMemory;
  readonly devices: readonly JournalDevice[];
  readonly #logs: WriteLog[] = [];
  readonly #watch: MachineWatch;
  /** Whether the guest executes in this VM. */
  running = false;
  /** When `pause` returned; `undefined` again from the call of `resume`. */
  pausedAt: number | undefined;
  abandoned = false;
  /** Whether the VM is out of use: its `resume` failed, or it was destroyed. */
  stranded = false;
  /** A copy of the guest, made when it was last paused in this VM. */
  #image:
    | { readonly ram: readonly Uint8Array[]; readonly journals: ReadonlyMap<string, readonly number[]> }
    | undefined;
  /** The bytes that `load` itself wrote to memory. */
  readonly #loaded = new Map<string, { readonly block: number; readonly offset: number; readonly bytes: Uint8Array }>();
  /** Whether the operator recovers the guest from its last pause in this VM; what the guest did elsewhere since is dropped. */
  recovering = false;
  /** Whether `receive` was called with `onArrival: 'pause'`. */
  leftPaused = false;
  /** Number of calls of `pause` that have returned. */
  pauses = 0;
  /** Number of calls of `resume`. */
  resumes = 0;
  #pausing = 0;
  #resuming = 0;
  #epoch = 0;

  constructor(process: HostProcess, side: Side, watch: MachineWatch) {
    const { blocks, devices } = watch.schedule;
    this.process = process;
    this.side = side;
    this.#watch = watch;
    this.buffers = new BufferMemory(
      blocks.map((pages, index) => ({
        id: `ram${index}`,
        guestPhysicalAddress: index * 0x1000_0000,
        byteLength: pages * PAGE_BYTES,
      })),
      PAGE_BYTES,
    );
    this.memory = new MachineMemory(this.buffers, () =>
      watch.fault('memory after abandon', `${this.name}: a view of its memory was asked for`),
    );
    this.devices = devices.map(
      (plan) =>
        new JournalDevice(plan, {
          call: (name, _, signal) => this.call(name, signal),
          sleep: (ms, signal) => process.delay(ms, signal),
          now: () => process.clock.now(),
          write: (seed, device) => this.#deviceWrite(seed, device),
          fault: (kind, message) => watch.fault(kind, `${this.name}: ${message}`),
        }),
    );
  }

  get name(): string {
    return this.process.name;
  }

  /** Whether the engine has called `pause` and its `resume` has not returned. */
  get heldByEngine(): boolean {
    return this.#pausing > 0 || this.#resuming > 0 || this.pausedAt !== undefined;
  }

  /** Makes a VM object over this machine, with memory and tracker objects of its own. */
  vm(): MigratableVm {
    const { schedule, guest } = this.#watch;
    const memory = this.memory.mapping();
    const { tracker } = schedule.guest;
    const kinds = tracker === 'both' ? (['software', 'manual'] as const) : [tracker];
    const trackers = kinds.map(
      (kind) => new WatchedTracker(kind, memory, (call) => this.call(call), this.#watch.fault),
    );
    this.#logs.push(...trackers);
    return {
      memory,
      trackers,
      devices: this.devices,
      runState: (): RunState => (guest.ended ? 'ended' : guest.pausedByUser ? 'paused' : 'running'),
      pause: (signal) => this.pause(signal),
      resume: () => this.resume(),
      prepared: () => this.call('prepared'),
      throttle: () => {},
      abandon: () => this.#abandon(),
    };
  }

  mark(block: number, offset: number, length: number): void {
    for (const log of this.#logs) log.mark(block, offset, length);
  }

  /** Starts the guest in this VM. */
  start(): void {
    this.running = true;
    this.#epoch++;
    this.#watch.guest.runners.add(this);
    void this.#execute(this.#epoch);
  }

  /** Stops the guest in this VM. */
  stop(): void {
    this.running = false;
    this.#watch.guest.runners.delete(this);
  }

  async call(call: Call, signal?: AbortSignal): Promise<void> {
    if (!this.process.alive) return never();
    const delay = this.#watch.called(this, call);
    if (!this.process.alive) return never();
    if (delay === undefined) return;
    if (delay.fails) throw new Error(`${call} failed on purpose`);
    if (delay.ms === undefined) {
      if (signal === undefined || !delay.obeysSignal) return never();
      await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }));
    } else {
      await this.process.delay(delay.ms, delay.obeysSignal ? signal : undefined);
    }
  }

  async pause(signal?: AbortSignal): Promise<void> {
    if (!this.process.alive) return never();
    const { schedule, guest } = this.#watch;
    this.#expectIdle('pause');
    this.#watch.note(`${this.name}: pause()`);
    this.#pausing++;
    try {
      await this.call('pause', signal);
      if (schedule.guest.pauseMs > 0) await this.process.delay(schedule.guest.pauseMs);
      if (this.running) guest.work(this, schedule.guest.burstAtPause);
      this.stop();
      this.#image = {
        ram: guest.home === this ? guest.ram.map((block) => block.slice()) : [],
        journals: new Map(this.devices.map((device) => [device.id, [...device.journal]])),
      };
      this.pauses++;
      this.pausedAt = this.process.clock.now();
      this.#watch.note(`${this.name}: paused`);
    } finally {
      this.#pausing--;
    }
  }

  async resume(): Promise<void> {
    if (!this.process.alive) return never();
    const { schedule, guest } = this.#watch;
    this.#watch.note(`${this.name}: resume()`);
    this.resumes++;
    this.#expectIdle('resume');
    this.#expectMayRun();
    if (this.leftPaused) this.#watch.fault('paused guest runs', `${this.name}: it was to be left paused on arrival`);
    if (!this.running) {
      this.#expectWhole();
      guest.runners.add(this);
      if (guest.home !== this) this.#becomeHome();
    }
    this.#resuming++;
    // The harness checks in this call how long the guest was paused.
    const called = this.call('resume');
    this.pausedAt = undefined;
    try {
      await called;
      if (schedule.guest.resumeMs > 0) await this.process.delay(schedule.guest.resumeMs);
      if (!this.running && !guest.pausedByUser && !guest.ended) this.start();
      this.#watch.note(`${this.name}: runs`);
    } catch (error) {
      this.stop();
      this.stranded = true;
      throw error;
    } finally {
      this.#resuming--;
    }
  }

  /** Makes this machine the guest's home, whether the guest runs at once or stays paused: `resume` is called only if it runs. */
  arrive(): void {
    const { guest } = this.#watch;
    if ((!this.leftPaused && !guest.pausedByUser) || guest.home === this) return;
    for (const other of guest.runners) {
      if (other.process.alive)
        this.#watch.fault('two runners', `${this.name} has it, and ${other.name} runs the guest`);
    }
    this.#expectWhole();
    this.#becomeHome();
  }

  /** Called after the operator has recovered the guest in this VM. A guest that its user had paused stays paused there. */
  recovered(): void {
    if (this.#watch.guest.pausedByUser && this.#watch.guest.home !== this) this.#becomeHome();
  }

  /** Resumes the guest as an operator does, with the memory and devices that the engine has left. */
  resumeByUser(): void {
    const { guest } = this.#watch;
    this.#watch.note(`${this.name}: its user runs the guest`);
    this.#expectMayRun();
    this.#expectWhole();
    if (guest.home !== this) this.#becomeHome();
    this.start();
  }

  async #abandon(): Promise<void> {
    if (!this.process.alive) return never();
    this.#watch.note(`${this.name}: abandon()`);
    if (this.running) this.#watch.fault('abandoned while it runs', this.name);
    for (const { id, loading } of this.devices) {
      if (loading) this.#watch.fault('abandoned while a device loads', `${this.name}: load of ${id} has not ended`);
    }
    this.abandoned = true;
    this.memory.unmap();
    await this.call('abandon');
  }

  #expectIdle(what: string): void {
    if (this.#pausing > 0) this.#watch.fault('called too early', `${this.name}: ${what} while pause has not settled`);
    if (this.#resuming > 0) this.#watch.fault('called too early', `${this.name}: ${what} while resume has not settled`);
  }

  /** Checks that the guest runs nowhere else, has not ended and is not paused by its user. */
  #expectMayRun(): void {
    const { guest, fault } = this.#watch;
    for (const other of guest.runners) {
      if (other !== this && other.process.alive)
        fault('two runners', `${this.name} resumes, and ${other.name} runs the guest`);
    }
    if (this.abandoned) fault('ran after abandon', this.name);
    if (guest.pausedByUser) fault('paused guest runs', `${this.name}: its user had paused the guest`);
    if (guest.ended) fault('ended guest runs', this.name);
  }

  /** Makes this machine the guest's home. The bytes that `load` has written become part of the guest's memory. */
  #becomeHome(): void {
    this.#watch.guest.moveTo(this);
    this.#loaded.clear();
  }

  /** Checks that memory and devices are as the guest left them. */
  #expectWhole(): void {
    const { guest } = this.#watch;
    const old = this.recovering ? this.#image : undefined;
    const wanted = (old?.ram.length ? old.ram : guest.ram).map((block) => block.slice());
    for (const { block, offset, bytes } of this.#loaded.values()) wanted[block]?.set(bytes, offset);
    const different = firstDifference(this.buffers, wanted);
    if (different !== undefined) {
      const { block, page } = different;
      this.#watch.fault(
        'memory differs',
        `${this.name} resumes: block ${block} page ${page} is not what the guest left`,
      );
    }
    for (const { id, journal } of this.devices) {
      const should = (old?.journals ?? guest.journals).get(id) ?? [];
      if (journal.length === should.length && journal.every((entry, index) => entry === should[index])) continue;
      this.#watch.fault(
        'device differs',
        `${this.name} resumes: ${id} has ${journal.length} entries, the guest left ${should.length}`,
      );
    }
  }

  #deviceWrite(seed: number, device: JournalDevice): { readonly block: number; readonly page: number } {
    const { guest, schedule } = this.#watch;
    const home = guest.home === this;
    const index = this.devices.indexOf(device);
    // With `verify` a load writes the same bytes as the source has, else bytes of its own.
    const own = !home && !schedule.options.verify ? 1 + device.loads * 5 : 0;
    const place = Math.imul(seed + own * 131 + index * 17, 2654435761) >>> 0;
    const block = place % this.buffers.blocks.length;
    const pages = schedule.blocks[block] as number;
    const page = (place >>> 8) % pages;
    const bytes = new Uint8Array(8).fill(seed + own + 1);
    const offset = page * PAGE_BYTES + index * 8;
    if (this.abandoned) return { block, page };
    if (home) {
      guest.store(this, block, offset, bytes);
      this.#image?.ram[block]?.set(bytes, offset);
    } else {
      this.buffers.write(block, offset, bytes);
      this.#loaded.delete(device.id);
      if (own > 0) this.#loaded.set(device.id, { block, offset, bytes });
    }
    return { block, page };
  }

  /** Lets the guest work while it runs in this VM. The interval grows while the network is quiet. */
  async #execute(epoch: number): Promise<void> {
    const { schedule, guest } = this.#watch;
    const { intervalMs, writesPerInterval } = schedule.guest;
    for (let wait = intervalMs; ; wait = this.#watch.quiet() ? Math.min(wait * 1.5, 5000) : intervalMs) {
      await this.#watch.sleep(wait);
      if (!this.running || !this.process.alive || this.#epoch !== epoch || this.#watch.over) return;
      guest.work(this, writesPerInterval);
    }
  }
}
