import { checkOptions } from '../argument.js';
import type { MigratableDevice } from '../device/migratable-device.js';
import type { MigratableVm, RunState } from '../device/migratable-vm.js';
import type { PageRun } from '../memory/page-run.js';
import type { DirtyTracker } from '../tracker/dirty-tracker.js';
import { SoftwareTracker } from '../tracker/software-tracker.js';
import { type BufferBlock, BufferMemory } from './buffer-memory.js';

/** A log of the writes of a `ToyVm`: `mark` is called after each. */
export interface WriteLog {
  /** Notes a write of `length` bytes. */
  mark(blockIndex: number, offset: number, length: number): void;
}

/** Options of a `ToyVm`. */
export interface ToyVmOptions {
  /** Default true. */
  readonly running?: boolean;
  readonly devices?: readonly MigratableDevice[];
  /** Default 4096. */
  readonly pageSize?: number;
}

/**
 * A VM without a CPU, for tests of the engine: a test writes its memory, and the VM keeps track of whether it runs.
 *
 * @example
 * const vm = new ToyVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 20 }]);
 * vm.write(0, 0, Uint8Array.of(1)); // as a vCPU writes: the tracker sees it
 * await migrate(vm, link.connector).result;
 */
export class ToyVm implements MigratableVm {
  readonly memory: BufferMemory;
  readonly software: SoftwareTracker;
  trackers: readonly DirtyTracker[];
  devices: readonly MigratableDevice[];
  running: boolean;
  pauses = 0;
  resumes = 0;
  abandoned: Error | undefined;
  /** A test sets this to true to make the guest end by itself. */
  ended = false;
  /** Called by `pause`, before it returns; may throw. */
  onPause: () => void | Promise<void> = () => {};
  /** Called by `resume`, before the guest runs; may throw. */
  onResume: () => void | Promise<void> = () => {};
  readonly #logs: WriteLog[];

  constructor(blocks: readonly BufferBlock[], options: ToyVmOptions = {}) {
    checkOptions<ToyVmOptions>('ToyVm', options, { running: true, devices: true, pageSize: true });
    this.memory = new BufferMemory(blocks, options.pageSize);
    this.software = new SoftwareTracker(this.memory);
    this.#logs = [this.software];
    this.trackers = [this.software];
    this.devices = options.devices ?? [];
    this.running = options.running ?? true;
  }

  /** Makes `tracker` the VM's only tracker; its `mark` is called for every write from now on. */
  track<T extends DirtyTracker & WriteLog>(tracker: T): T {
    this.#logs.push(tracker);
    this.trackers = [tracker];
    return tracker;
  }

  /** Writes as the guest does: memory, then the dirty log. Throws when the guest is paused. */
  write(blockIndex: number, offset: number, data: Uint8Array): void {
    if (!this.running) throw new Error('the guest wrote though it is paused');
    this.deviceWrite(blockIndex, offset, data);
  }

  /** Writes as a device that is being saved may: the guest need not run. */
  deviceWrite(blockIndex: number, offset: number, data: Uint8Array): void {
    this.memory.write(blockIndex, offset, data);
    for (const log of this.#logs) log.mark(blockIndex, offset, data.byteLength);
  }

  /** Gives pages back to the host, as a balloon does: they become holes, and count as written. */
  discard(blockIndex: number, run: PageRun): void {
    if (!this.running) throw new Error('the guest gave memory back though it is paused');
    this.memory.blocks[blockIndex]?.discard?.(run);
    const { pageSize } = this.memory;
    for (const log of this.#logs) log.mark(blockIndex, run.firstPage * pageSize, run.pageCount * pageSize);
  }

  runState(): RunState {
    if (this.ended) return 'ended';
    return this.running ? 'running' : 'paused';
  }

  async pause(): Promise<void> {
    this.pauses++;
    this.running = false;
    await this.onPause();
  }

  async resume(): Promise<void> {
    this.resumes++;
    await this.onResume();
    this.running = true;
  }

  async abandon(reason: Error): Promise<void> {
    this.abandoned = reason;
  }
}
