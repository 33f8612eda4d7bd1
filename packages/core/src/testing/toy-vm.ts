import type { MigratableDevice } from '../device/migratable-device.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import type { DirtyTracker } from '../tracker/dirty-tracker.js';
import { SoftwareTracker } from '../tracker/software-tracker.js';
import { type BufferBlock, BufferMemory } from './buffer-memory.js';

/** A VM without a CPU, for tests of the engine: a test writes its memory, and it remembers whether it runs. */
export class ToyVm implements MigratableVm {
  readonly memory: BufferMemory;
  readonly software: SoftwareTracker;
  trackers: readonly DirtyTracker[];
  devices: readonly MigratableDevice[];
  running: boolean;
  pauses = 0;
  resumes = 0;
  abandoned: Error | undefined;
  /** Called by `pause`, before it returns. */
  onPause: () => void | Promise<void> = () => {};

  constructor(blocks: readonly BufferBlock[], options: { running?: boolean; devices?: readonly MigratableDevice[]; pageSize?: number } = {}) {
    this.memory = new BufferMemory(blocks, options.pageSize);
    this.software = new SoftwareTracker(this.memory);
    this.trackers = [this.software];
    this.devices = options.devices ?? [];
    this.running = options.running ?? true;
  }

  /** Writes as the guest does: memory, then the dirty log. Throws when the guest is paused: a lost pause is a defect. */
  write(blockIndex: number, offset: number, data: Uint8Array): void {
    if (!this.running) throw new Error('the guest wrote though it is paused');
    this.memory.write(blockIndex, offset, data);
    this.software.mark(blockIndex, offset, data.byteLength);
  }

  async pause(): Promise<void> {
    this.pauses++;
    this.running = false;
    await this.onPause();
  }

  async resume(): Promise<void> {
    this.resumes++;
    this.running = true;
  }

  async abandon(reason: Error): Promise<void> {
    this.abandoned = reason;
  }
}
