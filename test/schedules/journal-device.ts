import type { MigratableDevice } from '@godwit/core';
import type { DevicePlan } from './schedule.js';

/** The part of a machine that a device uses. */
export interface DeviceHost {
  /** Reports the call to the harness, which may delay it or make it fail. */
  call(name: 'save' | 'load' | 'precopy' | 'prepared', device: JournalDevice, signal?: AbortSignal): Promise<void>;
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  now(): number;
  /** Writes guest memory for the device, at a place and with contents that depend on `seed`. */
  write(seed: number, device: JournalDevice): { readonly block: number; readonly page: number };
  fault(kind: string, message: string): void;
}

const CHUNK = 64;
const TRAILER = 0x7fff_fff1;

/**
 * A device whose state is a journal to which the guest appends while it runs. At the end it must equal the guest's own record. Its
 * plan says which methods it has and how they behave.
 */
export class JournalDevice implements MigratableDevice {
  readonly id: string;
  readonly version = 1;
  readonly plan: DevicePlan;
  journal: number[] = [];
  /** Number of `load` calls so far: each writes different bytes to memory. */
  loads = 0;
  readonly #host: DeviceHost;
  /** Number of entries that `precopy` has yielded. */
  #yielded = 0;
  #saving = false;
  /** Whether a call of `load` is pending. */
  loading = false;
  #written: { readonly block: number; readonly page: number }[] = [];
  readonly precopy?: () => AsyncIterable<Uint8Array>;
  readonly restart?: () => Promise<void>;
  readonly reset?: () => Promise<void>;
  readonly prepared?: () => Promise<void>;
  readonly loadWrites?: () => Iterable<{ block: number; firstPage: number; pageCount: number }>;
  readonly switchoverBlocker?: () => string | undefined;

  constructor(plan: DevicePlan, host: DeviceHost) {
    this.id = plan.id;
    this.plan = plan;
    this.#host = host;
    const iterative = plan.kind === 'iterative' || plan.kind === 'iterative-no-reset';
    if (iterative) {
      this.precopy = () => this.#precopy();
      this.restart = async () => {
        this.#yielded = 0;
      };
    }
    if (plan.kind === 'iterative') this.reset = () => this.#reset();
    if (plan.preparedMs !== undefined) this.prepared = () => this.#prepared(plan.preparedMs ?? 0);
    if (plan.tellsWrites) {
      this.loadWrites = () => this.#written.map(({ block, page }) => ({ block, firstPage: page, pageCount: 1 }));
    }
    if (plan.blockedUntilMs > 0) {
      this.switchoverBlocker = () => (host.now() < plan.blockedUntilMs ? 'not ready to be paused' : undefined);
    }
  }

  stateBytes(): number {
    return (this.journal.length - this.#yielded) * 4 + this.plan.fillerBytes;
  }

  async *save(signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    const { plan } = this;
    if (this.#saving) this.#host.fault('called too early', `save of ${this.id} while an earlier one has not ended`);
    this.#saving = true;
    const obeyed = plan.obeysSignal ? signal : undefined;
    try {
      await this.#host.call('save', this, obeyed);
      if (plan.kind === 'load-writes') this.#host.write(this.journal.length, this);
      yield* chunks(words(this.journal.slice(this.#yielded)));
      if (plan.slowMs > 0 && plan.kind === 'slow-save') await this.#host.sleep(plan.slowMs, obeyed);
      yield words([TRAILER, this.journal.length]);
      if (plan.fillerBytes > 0) yield new Uint8Array(plan.fillerBytes).fill(this.journal.length);
    } finally {
      this.#saving = false;
    }
  }

  async load(state: AsyncIterable<Uint8Array>): Promise<void> {
    const { plan } = this;
    if (this.loading) this.#host.fault('called too early', `load of ${this.id} while an earlier one has not ended`);
    this.loading = true;
    this.loads++;
    this.#written = [];
    try {
      const parts: Uint8Array[] = [];
      for await (const chunk of state) parts.push(chunk.slice());
      await this.#host.call('load', this);
      if (plan.slowMs > 0 && plan.kind === 'slow-load') await this.#host.sleep(plan.slowMs);
      this.journal = this.#parse(parts);
      if (plan.kind === 'load-writes') this.#written = [this.#host.write(this.journal.length, this)];
    } finally {
      this.loading = false;
    }
  }

  async release(): Promise<void> {
    this.#yielded = 0;
  }

  /** Appends what the guest has done to the device. */
  append(entry: number): void {
    this.journal.push(entry);
  }

  async *#precopy(): AsyncGenerator<Uint8Array> {
    if (this.#saving) this.#host.fault('called too early', `precopy of ${this.id} while its save has not ended`);
    await this.#host.call('precopy', this);
    const end = this.journal.length;
    while (this.#yielded < end) {
      const next = this.journal.slice(this.#yielded, Math.min(this.#yielded + CHUNK / 4, end));
      this.#yielded += next.length;
      yield words(next);
    }
  }

  async #reset(): Promise<void> {
    if (this.loading) this.#host.fault('called too early', `reset of ${this.id} while its load has not ended`);
    this.journal = [];
  }

  async #prepared(ms: number): Promise<void> {
    await this.#host.call('prepared', this);
    if (ms > 0) await this.#host.sleep(ms);
  }

  #parse(parts: readonly Uint8Array[]): number[] {
    const bytes = Buffer.concat(parts);
    const { fillerBytes } = this.plan;
    const end = bytes.byteLength - fillerBytes - 8;
    if (end < 0 || end % 4 !== 0 || bytes.readInt32LE(end) !== TRAILER || bytes.readInt32LE(end + 4) !== end / 4) {
      throw new Error(`${this.id}: a state of ${bytes.byteLength} bytes that makes no sense`);
    }
    return Array.from({ length: end / 4 }, (_, index) => bytes.readInt32LE(index * 4));
  }
}

function words(entries: readonly number[]): Uint8Array {
  return new Uint8Array(Int32Array.from(entries).buffer);
}

function* chunks(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += CHUNK) yield bytes.subarray(at, at + CHUNK);
}
