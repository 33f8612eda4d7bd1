import { performance } from 'node:perf_hooks';
import { GodwitError, type GuestMemory, type MigratableDevice, type SoftwareTracker } from '@godwit/core';
import type { GuestRam } from '../guest/guest-ram.js';
import { PAGE_SIZE } from '../guest/layout.js';
import { MailboxWriter, mailboxBytes } from '../guest/mailbox.js';
import { requireVersion, StateReader, StateWriter, stateBytesOf } from '../state/state-sections.js';

const PERIOD_MS = 10;

/**
 * A device that writes guest memory by itself, like one with DMA: every 10 ms the VMM's main thread writes the next message into the
 * mailbox pages. KVM's dirty log cannot see these writes, so that the device marks them in its tracker. No harvest comes between a
 * write and its mark, since harvests run on the same thread.
 *
 * The device is stopped while the machine is paused. It runs on the event loop, which must not wait for a missing page: before it writes, it
 * awaits that the pages are there.
 */
export class Mailbox implements MigratableDevice {
  readonly id = 'mailbox';
  readonly version = 1;
  readonly maximumStateBytes = stateBytesOf(Uint32Array.BYTES_PER_ELEMENT);
  readonly #ram: GuestRam;
  readonly #memory: GuestMemory;
  readonly #tracker: SoftwareTracker | undefined;
  #writer: MailboxWriter;
  #timer: NodeJS.Timeout | undefined;
  /** When the next message is due, in milliseconds of `performance.now`. */
  #due = 0;
  #posting = false;

  /**
   * @param memory the memory that `ram` reads and writes
   * @param tracker in which every write is marked; undefined when another tracker sees the writes of this process
   */
  constructor(ram: GuestRam, memory: GuestMemory, tracker?: SoftwareTracker) {
    this.#ram = ram;
    this.#memory = memory;
    this.#tracker = tracker;
    this.#writer = new MailboxWriter(ram);
  }

  /** Number of the last message. */
  get lastMessage(): number {
    return this.#writer.lastMessage;
  }

  start(): void {
    this.#timer ??= setTimeout(() => this.#post(), Math.max(0, this.#due - performance.now()));
  }

  /** Stops writing until `start`. The rest of the period is kept, so that short runs between pauses add up. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #post(): void {
    this.#due = performance.now() + PERIOD_MS;
    this.#timer = setTimeout(() => this.#post(), PERIOD_MS);
    void this.#write();
  }

  async #write(): Promise<void> {
    // Messages that become due during the wait for pages are left out.
    if (this.#posting) return;
    this.#posting = true;
    try {
      // The mailbox is in ram-low, the first block, which starts at address 0.
      const { address, byteLength } = mailboxBytes;
      await this.#memory.present?.(0, address, byteLength);
      // The device was stopped meanwhile.
      if (this.#timer === undefined) return;
      const written = this.#writer.post();
      this.#tracker?.mark(0, written, PAGE_SIZE);
    } catch {
      // The pages will never come, so that the guest will not go on either.
    } finally {
      this.#posting = false;
    }
  }

  async *save(): AsyncIterable<Uint8Array> {
    const last = Uint32Array.of(this.#writer.lastMessage);
    yield new StateWriter().section('LAST', new Uint8Array(last.buffer)).finish();
  }

  async load(state: AsyncIterable<Uint8Array>, version: number): Promise<void> {
    requireVersion(this.id, version, this.version);
    if (this.#timer !== undefined) {
      throw new GodwitError('GODWIT_INVALID_STATE', 'the mailbox is running: load state while the machine is paused');
    }
    const reader = await StateReader.read(this.id, state, ['LAST']);
    const last = new DataView(reader.required('LAST', 4).buffer).getUint32(0, true);
    this.#writer = new MailboxWriter(this.#ram, last);
  }

  /** Returns no pages: the mailbox pages come with the RAM, and only the number of the last message is loaded. */
  loadWrites(): readonly [] {
    return [];
  }
}
