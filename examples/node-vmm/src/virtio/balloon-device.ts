import { type DirtyBitmaps, GodwitError } from '@godwit/core';
import type { StateReader, StateWriter } from '../state/state-sections.js';
import type { DescriptorChain } from './descriptor-chain.js';
import type { DeviceMemory, PagesOfBlock } from './device-memory.js';
import { QueueFault } from './split-queue.js';
import type { DeviceSurroundings, QueueService, VirtioDevice } from './virtio-device.js';
import { DeviceType } from './virtio-numbers.js';

/** Feature bits (5.5.3). */
export const BalloonFeature = {
  /** A page in the balloon is used again only after the device was told. */
  mustTellHost: 1n << 0n,
  /** Statistics are offered so that each queue has one number for every driver: a driver numbers only those that it knows. */
  statistics: 1n << 1n,
  deflateOnOom: 1n << 2n,
  freePageHint: 1n << 3n,
  pagePoison: 1n << 4n,
  reporting: 1n << 5n,
} as const;

/** What the driver is asked for by `free_page_hint_cmd_id` (5.5.6.7.1), beside numbers from the first one on: its free pages. */
export const HintCommand = { stop: 0, done: 1, first: 0x8000_0000 } as const;

/** Units of the balloon's numbers of pages, whatever the page size is (5.5.6). */
const UNIT_BYTES = 4096;
const LAST_COMMAND = 0xffff_ffff;
/** num_pages, actual, free_page_hint_cmd_id, poison_val (5.5.4): 32 bits each. */
const CONFIG_BYTES = 16;
const Config = { target: 0, actual: 4, command: 8, poison: 12 } as const;
/** Numbers of pages in a request: Linux sends 256. */
const MOST_NUMBERS = 65_536;
/** A free block of Linux has at most 4 MiB, or a huge page. */
const MOST_FREE_BYTES = 2 ** 40;

interface Collection {
  readonly command: number;
  readonly into: DirtyBitmaps;
  /** Whether the driver has begun to answer this command. */
  started: boolean;
  readonly done: () => void;
}

/**
 * A memory balloon (5.5). What the guest puts into it, or reports as free, is given back to the host, but not while a migration or a snapshot
 * uses the memory. Before a migration the guest is asked for its free pages, which need not be sent then.
 *
 * A guest that expects something in its free pages (`pagePoison`: it poisons them, or zeroes them when they are freed) is asked for none,
 * and none that it reports is given back.
 */
export class BalloonDevice implements VirtioDevice {
  readonly id = 'virtio-balloon';
  readonly type = DeviceType.balloon;
  readonly features = Object.values(BalloonFeature).reduce((all, bit) => all | bit, 0n);
  readonly config = new Uint8Array(CONFIG_BYTES);
  readonly version = 1;
  readonly sections = { BALN: CONFIG_BYTES };
  readonly queues: readonly QueueService[];
  readonly #view = new DataView(this.config.buffer);
  #surroundings: DeviceSurroundings | undefined;
  #running = false;
  /** Pages in the balloon that the host has not got yet. */
  #owed: DirtyBitmaps | undefined;
  /** Pages of one report. */
  #reported: DirtyBitmaps | undefined;
  #collection: Collection | undefined;
  #command: number = HintCommand.first;

  constructor() {
    const numbers = { maximumChainBytes: 4 * MOST_NUMBERS };
    const free = { maximumChainBytes: MOST_FREE_BYTES };
    this.queues = [
      { ...numbers, serve: (chain) => this.#inflate(chain) },
      { ...numbers, serve: (chain) => this.#deflate(chain) },
      // The one buffer for statistics stays in the queue until somebody asks for them, and nobody does.
      { maximumChainBytes: 2 ** 16, ready: () => false, serve: () => 0 },
      { ...free, serve: (chain) => this.#hint(chain) },
      { ...free, serve: (chain) => this.#report(chain) },
    ];
    this.#set(Config.command, HintCommand.done);
  }

  attach(surroundings: DeviceSurroundings): void {
    this.#surroundings = surroundings;
  }

  /** Bytes that the guest has put into the balloon. */
  get heldBytes(): number {
    return this.#get(Config.actual) * UNIT_BYTES;
  }

  /** Bytes that the guest is to put into the balloon. A guest without memory to spare takes its time, or never does all. */
  set targetBytes(bytes: number) {
    this.#set(Config.target, Math.floor(bytes / UNIT_BYTES));
    this.#surroundings?.configChanged();
  }

  start(): void {
    this.#running = true;
    this.#giveBack();
    // A guest that was being asked when its state was saved gets its pages back here.
    if (this.#collection === undefined && this.#get(Config.command) !== HintCommand.done) this.#tell(HintCommand.done);
  }

  async stop(): Promise<void> {
    this.#running = false;
  }

  reset(): void {
    this.#owed = undefined;
    this.#set(Config.actual, 0);
    this.#set(Config.poison, 0);
    this.#collection?.done();
  }

  /** The driver writes how much it has put in, and what it poisons free pages with. */
  writeConfig(offset: number, bytes: Uint8Array): void {
    if (bytes.byteLength === 4 && (offset === Config.actual || offset === Config.poison))
      this.config.set(bytes, offset);
  }

  /**
   * Asks the guest for its free pages: see `FreePages.collect`. Names none where the guest has no driver for it, is paused, or counts on
   * what is in its free pages.
   */
  async collect(into: DirtyBitmaps, signal: AbortSignal): Promise<void> {
    const hints = this.#has(BalloonFeature.freePageHint) && !this.#has(BalloonFeature.pagePoison);
    if (!this.#running || !hints || signal.aborted) return;
    if (this.#collection !== undefined) {
      throw new GodwitError('GODWIT_INVALID_STATE', `${this.id} is asking the guest for its free pages already`);
    }
    const command = this.#command;
    this.#command = command === LAST_COMMAND ? HintCommand.first : command + 1;
    let enough = (): void => {};
    const answered = new Promise<void>((resolve) => {
      enough = resolve;
    });
    signal.addEventListener('abort', enough, { once: true });
    this.#collection = { command, into, started: false, done: enough };
    try {
      this.#tell(command);
      await answered;
    } finally {
      signal.removeEventListener('abort', enough);
      this.#collection = undefined;
      // The guest may use its free pages again: what it writes now is seen by the dirty trackers.
      this.#tell(HintCommand.done);
    }
  }

  save(writer: StateWriter): void {
    writer.section('BALN', Uint8Array.from(this.config));
  }

  load(reader: StateReader): void {
    this.config.set(reader.required('BALN', CONFIG_BYTES));
  }

  #inflate(chain: DescriptorChain): number {
    this.#numbers(chain, (pages, owed) => owed.at(pages.block).setRange(pages.firstPage, pages.pageCount));
    this.#giveBack();
    // Later it could be in use again.
    if (!this.#has(BalloonFeature.mustTellHost)) this.#owed?.clearAll();
    return 0;
  }

  #deflate(chain: DescriptorChain): number {
    this.#numbers(chain, (pages, owed) => owed.at(pages.block).clearRange(pages.firstPage, pages.pageCount));
    return 0;
  }

  /** Calls `each` for the pages whose numbers are in a chain; numbers that are no RAM are left out. */
  #numbers(chain: DescriptorChain, each: (pages: PagesOfBlock, owed: DirtyBitmaps) => void): void {
    if (chain.readableBytes % 4 !== 0) {
      throw new QueueFault(`numbers of pages have 4 bytes each, got ${chain.readableBytes} bytes`);
    }
    const memory = this.#memory();
    this.#owed ??= memory.bitmaps();
    const bytes = chain.read(0, chain.readableBytes);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = 0; at < bytes.byteLength; at += 4) {
      const pages = memory.wholePages({ address: view.getUint32(at, true) * UNIT_BYTES, byteLength: UNIT_BYTES });
      if (pages !== undefined) each(pages, this.#owed);
    }
  }

  /** Gives the host what is in the balloon and not given yet, unless the memory is in use by a migration. */
  #giveBack(): void {
    if (this.#owed !== undefined && this.#memory().giveBack(this.#owed)) this.#owed.clearAll();
  }

  #hint(chain: DescriptorChain): number {
    const collection = this.#collection;
    if (chain.readableBytes > 0) {
      if (chain.readableBytes !== 4) {
        throw new QueueFault(`a command of the balloon has 4 bytes, got ${chain.readableBytes}`);
      }
      const command = new DataView(chain.read(0, 4).buffer).getUint32(0, true);
      if (collection === undefined) return 0;
      if (command === collection.command) collection.started = true;
      else if (command === HintCommand.stop && collection.started) collection.done();
      return 0;
    }
    // A page that answers an earlier command may be in use by now.
    if (collection?.started !== true) return 0;
    for (const range of chain.writable) {
      const pages = this.#memory().wholePages(range);
      if (pages !== undefined) collection.into.at(pages.block).setRange(pages.firstPage, pages.pageCount);
    }
    return 0;
  }

  #report(chain: DescriptorChain): number {
    if (this.#has(BalloonFeature.pagePoison)) return 0;
    const memory = this.#memory();
    this.#reported ??= memory.bitmaps();
    const free = this.#reported;
    free.clearAll();
    for (const range of chain.writable) {
      const pages = memory.wholePages(range);
      if (pages !== undefined) free.at(pages.block).setRange(pages.firstPage, pages.pageCount);
    }
    memory.giveBack(free);
    return 0;
  }

  /** Whether the driver has accepted a feature. */
  #has(feature: bigint): boolean {
    return ((this.#surroundings?.features() ?? 0n) & feature) !== 0n;
  }

  #tell(command: number): void {
    this.#set(Config.command, command);
    this.#surroundings?.configChanged();
  }

  #memory(): DeviceMemory {
    if (this.#surroundings === undefined) throw new GodwitError('GODWIT_INTERNAL', `${this.id} is attached to nothing`);
    return this.#surroundings.memory;
  }

  #get(field: number): number {
    return this.#view.getUint32(field, true);
  }

  #set(field: number, value: number): void {
    this.#view.setUint32(field, value, true);
  }
}
