import { PAGE_SIZE } from '@godwit/example-node-vmm/guest';
import type { DmaMapping, Type1Container } from '@godwit/vfio';
import type { DmaDevice } from '../guest/dma-device.js';

/** The address at which the device reaches the mapping: far from guest memory, which is mapped at its own addresses. */
const WINDOW = 2 ** 40;
const WINDOW_PAGES = 64;
const PLACES = 16;
const MOVE_EVERY_MS = 50;
/** Writes through the mapping after a move, before a dirty log is read. */
const WRITES_AFTER_MOVE = 5;

/** A mapping of one address that is moved from one part of guest memory to the next, again and again. */
export class MovingMapping {
  /** The pages of guest memory that the mapping moves over. */
  static readonly PAGES = WINDOW_PAGES * PLACES;
  readonly #container: Type1Container;
  readonly #device: DmaDevice;
  readonly #guestPhysicalAddress: number;
  readonly #hostAddress: bigint;
  #mapping: DmaMapping | undefined;
  #timer: NodeJS.Timeout | undefined;
  #move: Promise<void> = Promise.resolve();
  #moves = 0;
  #writes = 0;
  #writesSinceMove = 0;
  #waiting: { readonly moves: number; readonly resolve: () => void }[] = [];

  constructor(container: Type1Container, device: DmaDevice, guestPhysicalAddress: number, hostAddress: bigint) {
    this.#container = container;
    this.#device = device;
    this.#guestPhysicalAddress = guestPhysicalAddress;
    this.#hostAddress = hostAddress;
  }

  get moves(): number {
    return this.#moves;
  }

  async start(): Promise<void> {
    await this.#map();
    this.#timer = setInterval(() => {
      this.#move = this.#move.then(() => this.#moveOn());
    }, MOVE_EVERY_MS);
  }

  /** The device writes through the mapping, to another page each time; between an unmap and the next map it cannot. */
  write(bytes: Uint8Array): void {
    if (this.#timer === undefined || this.#mapping === undefined) return;
    const page = this.#writes++ % WINDOW_PAGES;
    const result = this.#device.write(WINDOW + page * PAGE_SIZE + 16, bytes);
    if (result < 0) return;
    this.#writesSinceMove++;
    if (this.#writesSinceMove >= WRITES_AFTER_MOVE) this.#wake();
  }

  /**
   * Resolves when the mapping has moved after this call, and the device has written through it; at once if the mapping
   * no longer moves.
   */
  movedAndWritten(): Promise<void> {
    if (this.#timer === undefined) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push({ moves: this.#moves, resolve }));
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#timer = undefined;
    for (const { resolve } of this.#waiting.splice(0)) resolve();
    await this.#move;
  }

  async #moveOn(): Promise<void> {
    const mapping = this.#mapping;
    if (mapping === undefined || this.#timer === undefined) return;
    this.#mapping = undefined;
    await this.#container.unmap(mapping);
    await this.#map();
    this.#moves++;
    this.#writesSinceMove = 0;
  }

  async #map(): Promise<void> {
    const offset = (this.#moves % PLACES) * WINDOW_PAGES * PAGE_SIZE;
    this.#mapping = await this.#container.map({
      iova: WINDOW,
      byteLength: WINDOW_PAGES * PAGE_SIZE,
      guestPhysicalAddress: this.#guestPhysicalAddress + offset,
      hostAddress: this.#hostAddress + BigInt(offset),
    });
  }

  #wake(): void {
    const ready = this.#waiting.filter(({ moves }) => moves < this.#moves);
    this.#waiting = this.#waiting.filter(({ moves }) => moves >= this.#moves);
    for (const { resolve } of ready) resolve();
  }
}
