import { randomBytes } from 'node:crypto';
import type { GuestMemory, MigratableDevice } from '@godwit/core';
import { guestBytes } from '../machine/memory-map.js';
import { requireVersion, StateReader, StateWriter, stateBytesOf } from '../state/state-sections.js';

/**
 * Where the identifier of the machine's generation is: in a page of its own, at the end of a BIOS's area, which the memory map reserves.
 * Guest-physical.
 */
export const GENERATION_ADDRESS = 0xf_f000;
/** The interrupt by which the guest is told of another generation: a rising edge at a pin that no device of a PC needs. */
export const GENERATION_IRQ = 10;
const GENERATION_BYTES = 16;

/**
 * The identifier of the machine's generation (VMGenID): 16 random bytes in guest memory. A guest that moves keeps it. One that is made of a
 * snapshot gets another one before it runs, and an interrupt, since the snapshot's guest may have gone on, or be restored again: Linux then
 * seeds its random numbers anew.
 */
export class GenerationId implements MigratableDevice {
  readonly id = 'generation';
  readonly version = 1;
  readonly maximumStateBytes = stateBytesOf(GENERATION_BYTES);
  readonly #memory: GuestMemory;
  readonly #interrupt: () => void;
  #identifier: Uint8Array = new Uint8Array(GENERATION_BYTES);

  /** @param interrupt raises an edge at the pin `GENERATION_IRQ` */
  constructor(memory: GuestMemory, interrupt: () => void) {
    this.#memory = memory;
    this.#interrupt = interrupt;
  }

  /** The identifier, as the guest sees it. */
  get identifier(): Uint8Array {
    return Uint8Array.from(this.#identifier);
  }

  /** Gives a new guest its identifier. */
  begin(): void {
    this.#write();
  }

  /**
   * Gives the guest of a snapshot another identifier, before it runs. Resolves when that is in its memory, which may not be whole yet.
   *
   * @throws GodwitError GODWIT_PAGES_MISSING when the page will never come
   */
  async renew(): Promise<void> {
    // The page is in ram-low, the first block, which starts at address 0.
    await this.#memory.present?.(0, GENERATION_ADDRESS, GENERATION_BYTES);
    this.#write();
    this.#interrupt();
  }

  async *save(): AsyncIterable<Uint8Array> {
    yield new StateWriter().section('GUID', this.#identifier).finish();
  }

  async load(state: AsyncIterable<Uint8Array>, version: number): Promise<void> {
    requireVersion(this.id, version, this.version);
    const reader = await StateReader.read(this.id, state, ['GUID']);
    this.#identifier = reader.required('GUID', GENERATION_BYTES);
  }

  /** Returns no pages: the identifier in guest memory comes with the memory. */
  loadWrites(): readonly [] {
    return [];
  }

  #write(): void {
    this.#identifier = new Uint8Array(randomBytes(GENERATION_BYTES));
    guestBytes(this.#memory, GENERATION_ADDRESS, GENERATION_BYTES)?.set(this.#identifier);
  }
}
