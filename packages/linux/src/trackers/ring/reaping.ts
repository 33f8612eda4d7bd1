import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { dirtyRingBytes, mapDirtyRing } from '../../kvm/dirty-ring.js';
import { DirtyRingCalls } from '../../kvm/dirty-ring-calls.js';
import { KvmDirtyRing } from '../../layouts/kvm-dirty-ring.js';
import { ioctl, munmap } from '../../libc/index.js';
import { type RingThreadData, type RingThreadMessage, ringWords } from './reap-rings.js';
import { RingReaper } from './ring-reaper.js';
import { VcpuRing } from './vcpu-ring.js';

/**
 * How often, and with how many milliseconds in between, to check whether vCPUs still cannot run: such a vCPU counts an exit every one or
 * two milliseconds.
 */
const MOST_LOOKS = 100;
const LOOK_MS = 20;

interface Waiting {
  resolve(set: number): void;
  reject(error: Error): void;
}

/** The rings of a VM while they are mapped, and the thread that reaps them. */
export class Reaping {
  readonly rings: readonly VcpuRing[];
  /** Resolves when the thread reaps. Rejects when it cannot. */
  readonly ready: Promise<void>;
  readonly #data: RingThreadData;
  readonly #calls: DirtyRingCalls;
  readonly #worker: Worker;
  /** Resolves when the thread has ended, with or without an error. */
  readonly #ended: Promise<void>;
  readonly #waiting = new Map<number, Waiting>();
  readonly #onFailure: (error: Error) => void;
  #ending = false;
  #failure: Error | undefined;

  /** @param onFailure called once when the thread fails: the rings are not reaped any more. `end` must be called nevertheless */
  constructor(vcpuFds: readonly number[], data: Omit<RingThreadData, 'rings'>, onFailure: (error: Error) => void) {
    this.#onFailure = onFailure;
    this.#data = { ...data, rings: mapAll(vcpuFds, data.entries) };
    const places = new Int32Array(data.places);
    this.rings = this.#data.rings.map((address, i) => new VcpuRing(ringWords(address, data.entries), places, i));
    this.#calls = new DirtyRingCalls(data.calls);
    this.#calls.begin();
    this.#worker = new Worker(new URL('./ring-thread.js', import.meta.url), {
      workerData: this.#data,
      name: 'dirty rings',
    });
    this.#worker.once('error', (error: Error) => this.#fail(error));
    this.#ended = new Promise((resolve) => {
      this.#worker.once('exit', () => {
        this.#calls.ended();
        if (!this.#ending) this.#fail(new Error('the thread that reaps the dirty rings has ended'));
        resolve();
      });
    });
    this.ready = new Promise((resolve, reject) => {
      this.#worker.once('error', reject);
      this.#worker.once('exit', () => reject(new Error('the thread that reaps the dirty rings did not start')));
      this.#worker.on('message', (message: RingThreadMessage) => {
        if (message.type === 'ready') {
          // Only a harvest that is waited for keeps the process alive.
          this.#worker.unref();
          resolve();
          return;
        }
        this.#waiting.get(message.harvest)?.resolve(message.set);
        this.#waiting.delete(message.harvest);
      });
    });
    this.ready.catch(() => undefined);
  }

  /** Resolves when all dirty pages were reaped, with their set of bitmaps. Rejects when the thread fails. */
  async reaped(): Promise<number> {
    if (this.#failure !== undefined) throw this.#failure;
    this.#worker.ref();
    try {
      return await new Promise((resolve, reject) => this.#waiting.set(this.#calls.harvest(), { resolve, reject }));
    } finally {
      this.#worker.unref();
    }
  }

  /** Reaps the rest, so that the rings are empty, ends the thread and unmaps the rings. To be called with logging off. */
  async end(): Promise<void> {
    this.#ending = true;
    if (this.#failure === undefined) this.#calls.end();
    this.#worker.ref();
    await this.#ended;
    try {
      if (this.#failure !== undefined) await this.#giveUp();
    } finally {
      unmapAll(this.#data.rings, this.#data.entries);
    }
  }

  /** Empties the rings: a vCPU with a full one would never run again. Ends when no vCPU counts a full ring any more. */
  async #giveUp(): Promise<void> {
    const { vmFd, slots, collected } = this.#data;
    const reaper = new RingReaper({
      ...{ rings: this.rings, slots, collected: new Int32Array(collected) },
      reset: () => ioctl(vmFd, KvmDirtyRing.KVM_RESET_DIRTY_RINGS, 0, 'KVM_RESET_DIRTY_RINGS'),
    });
    reaper.giveUp();
    for (let looks = 0; looks < MOST_LOOKS; looks++) {
      const before = this.#calls.fullExits();
      reaper.makeRoom(before);
      await sleep(LOOK_MS);
      const now = this.#calls.fullExits();
      // A vCPU's first exit may be from before its ring was emptied.
      if (now.every((times, vcpu) => times - (before[vcpu] as number) < 2)) return;
    }
  }

  #fail(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#calls.ended();
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
    this.#onFailure(error);
  }
}

function mapAll(vcpuFds: readonly number[], entries: number): bigint[] {
  const mapped: bigint[] = [];
  try {
    for (const fd of vcpuFds) mapped.push(mapDirtyRing(fd, entries));
    return mapped;
  } catch (error) {
    unmapAll(mapped, entries);
    throw error;
  }
}

function unmapAll(addresses: readonly bigint[], entries: number): void {
  for (const address of addresses) munmap(address, dirtyRingBytes(entries));
}
