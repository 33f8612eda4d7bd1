import {
  checkOptions,
  GodwitError,
  type GuestMemory,
  type PagesToProtect,
  type ProtectedMemory,
  quoted,
  type WriteProtection,
} from '@godwit/core';
import { type MappedGuestMemory, SharedUserfaultfd } from '@godwit/linux';
import { type ServiceThread, startServiceThread, stopThreads } from '../missing/service-thread-pool.js';
import { rangesOf, servable } from '../missing/serving-blockers.js';
import { ProtectedThreads } from './protected-threads.js';
import { protectionBlockers } from './protection-blockers.js';

const MIB = 2 ** 20;

/** Options of `writeProtection`. */
export interface WriteProtectionOptions {
  /**
   * Room for copies of pages that the guest was about to write and that are not on the disk yet, in bytes. While there is room, a write to
   * a page that is not saved yet takes the time of a copy, some tens of microseconds; once the buffer is full, such a write waits until
   * the disk has taken a page. Room for all the memory that the guest writes while the snapshot is saved is always enough. At least 1 MiB.
   * Default: 64 MiB.
   */
  readonly bufferBytes?: number;
}

/**
 * Threads that protect guest memory against writing, for snapshots that do not stop the guest: one serves the page faults, the other saves
 * the pages. They are started in advance, since starting them takes 50 ms or more; each snapshot has two of its own.
 *
 * @example
 * const background = writeProtection();
 * const migration = migrate(vm, connectTo(file({ path })), { background });
 */
export class WriteProtectionThreads implements WriteProtection {
  readonly #bufferBytes: number;
  #idle: readonly [ServiceThread, ServiceThread] | undefined;
  #closed = false;

  constructor({ bufferBytes = 64 * MIB }: WriteProtectionOptions = {}) {
    this.#bufferBytes = bufferBytes;
    this.#idle = pair();
  }

  /** Resolves when the threads of the next snapshot are ready. A snapshot waits for this by itself. */
  async ready(): Promise<void> {
    if (!this.#closed) this.#idle ??= pair();
    await Promise.all(this.#idle?.map(({ ready }) => ready) ?? []);
  }

  blockers(memory: GuestMemory): readonly string[] {
    return protectionBlockers(memory);
  }

  async protect(request: PagesToProtect): Promise<ProtectedMemory> {
    if (this.#closed) {
      throw new GodwitError('GODWIT_INVALID_STATE', 'the threads of background snapshots have been stopped');
    }
    const reasons = protectionBlockers(request.memory);
    if (reasons.length > 0) {
      throw new GodwitError('GODWIT_BLOCKED', `the memory cannot be protected: ${reasons.join('; ')}`);
    }
    const memory = servable(request.memory) as MappedGuestMemory;
    const threads = this.#idle ?? pair();
    this.#idle = undefined;
    await Promise.all(threads.map(({ ready }) => ready));
    let user: SharedUserfaultfd | undefined;
    let made: ProtectedThreads | undefined;
    try {
      user = SharedUserfaultfd.join(rangesOf(memory), 'synchronous');
      made = new ProtectedThreads(memory, request, user, threads, this.#bufferBytes);
      await made.protected();
    } catch (error) {
      await made?.end();
      if (made === undefined) {
        user?.leave();
        await stopThreads(threads);
      }
      throw error;
    }
    // Two more threads are started for the next snapshot, once this one needs no more processor time.
    const again = (): void => {
      if (!this.#closed) this.#idle ??= pair();
    };
    made.saved.then(again, again);
    return made;
  }

  /** Ends the idle threads. The threads of a snapshot end with it. */
  async close(): Promise<void> {
    this.#closed = true;
    const idle = this.#idle ?? [];
    this.#idle = undefined;
    await stopThreads(idle);
  }
}

/**
 * Starts `WriteProtectionThreads`; see there.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT for an impossible option
 *
 * @example
 * const background = writeProtection({ bufferBytes: 256 * 2 ** 20 }); // when the program starts
 * await migrate(vm, connectTo(file({ path })), { background }).result; // the guest runs on, here
 */
export function writeProtection(options: WriteProtectionOptions = {}): WriteProtectionThreads {
  checkOptions<WriteProtectionOptions>('writeProtection', options, { bufferBytes: true });
  const { bufferBytes = 64 * MIB } = options;
  if (!Number.isSafeInteger(bufferBytes) || bufferBytes < MIB || bufferBytes > 4096 * MIB) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `bufferBytes must be a whole number from ${MIB} to 2^32, got ${quoted(bufferBytes)}`,
    );
  }
  return new WriteProtectionThreads(options);
}

function pair(): readonly [ServiceThread, ServiceThread] {
  return [
    startServiceThread('godwit write faults', 'protect-thread'),
    startServiceThread('godwit page saving', 'protect-thread'),
  ];
}
