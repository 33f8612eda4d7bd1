import {
  type IncomingMigration,
  type MigratableDevice,
  type MigrateOptions,
  type Migration,
  migrate,
  receive,
  SoftwareTracker,
} from '@godwit/core';
import { type MemoryLink, memoryLink, ToyVm } from '@godwit/core/testing';

const PAGE = 4096;
const BATCH_MS = 10;

export interface ToyOptions {
  readonly ramBytes?: number;
  /** The first pages of RAM, which the guest writes again and again. */
  readonly workingSetBytes?: number;
  readonly dirtyPagesPerSecond?: number;
  readonly bytesPerSecond?: number;
  readonly latencyMs?: number;
  readonly migrate?: MigrateOptions;
}

/** A real migration of a guest without a CPU, over a link in memory: both sides, and a guest that writes at a rate. */
export class ToyMigration {
  readonly link: MemoryLink;
  readonly vm: ToyVm;
  readonly arrived: ToyVm;
  readonly migration: Migration;
  readonly incoming: IncomingMigration;
  readonly #writer: NodeJS.Timeout | undefined;
  /** Resolves when the two sides know each other, or it is over. */
  readonly #met: Promise<void>;

  constructor(options: ToyOptions = {}) {
    const { ramBytes = 4 * 2 ** 20, workingSetBytes = ramBytes, dirtyPagesPerSecond = 0 } = options;
    const { bytesPerSecond = 0, latencyMs = 0 } = options;
    const ram = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: ramBytes }];
    this.link = memoryLink({ bytesPerSecond, latencyMs });
    this.vm = new ToyVm(ram, { devices: [serial()] });
    this.arrived = new ToyVm(ram, { running: false, devices: [serial()] });
    for (let at = 0; at < ramBytes; at += PAGE) this.vm.write(0, at, Uint8Array.of(1, at / PAGE));
    const vcpus = new SoftwareTracker(this.vm.memory, 'vcpus');
    const virtio = new SoftwareTracker(this.vm.memory, 'virtio');
    this.vm.trackers = [vcpus, virtio];
    this.incoming = receive(this.link.listener, { prepare: () => this.arrived });
    this.migration = migrate(this.vm, this.link.connector, { verify: true, ...options.migrate });
    this.#met = new Promise((resolve) => {
      this.incoming.subscribe({ next: ({ type }) => type === 'hello' && resolve(), complete: resolve });
      this.migration.subscribe({ complete: resolve });
    });
    if (dirtyPagesPerSecond === 0) return;
    const random = seeded(7);
    const batch = (dirtyPagesPerSecond * BATCH_MS) / 1000;
    const pages = workingSetBytes / PAGE;
    this.#writer = setInterval(() => {
      for (let i = 0; i < batch && this.vm.running; i++) {
        const offset = Math.floor(random() * pages) * PAGE;
        const tracker = i % 6 === 0 ? virtio : vcpus;
        this.vm.memory.write(0, offset, Uint8Array.of(2 + (i % 200)));
        tracker.mark(0, offset, 1);
      }
    }, BATCH_MS);
  }

  /** Resolves when both sides are over, also when they have failed. */
  async over(): Promise<void> {
    await Promise.allSettled([this.migration.result, this.incoming.result]);
    clearInterval(this.#writer);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The two sides have to meet first: `cancel` would wait for a connection whose hello nobody has read.
    await this.#met;
    this.migration.cancel('the test is over');
    this.incoming.cancel('the test is over');
    await this.over();
  }
}

function serial(): MigratableDevice {
  return {
    id: 'serial',
    version: 1,
    async *save() {
      yield new Uint8Array(64 * 1024).fill(5);
    },
    async load(state) {
      for await (const _ of state);
    },
  };
}

/** Numbers from 0 to below 1, the same each time. */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
