import type { BufferMemory } from '@godwit/core/testing';
import { Random } from '../fuzz/random.js';
import { type GuestPlan, PAGE_BYTES } from './schedule.js';
import { copyRam } from './watched-memory.js';

/** The part of a machine that the guest uses. */
export interface GuestHost {
  readonly buffers: BufferMemory;
  readonly devices: readonly {
    readonly id: string;
    readonly journal: readonly number[];
    append(entry: number): void;
  }[];
  /** Marks the bytes dirty in the trackers. */
  mark(block: number, offset: number, length: number): void;
}

/**
 * The one guest of a schedule, on whichever machine it runs: what its memory and its devices must hold, and which machines run it.
 * Every write to guest memory is made here as well.
 */
export class Guest<Machine extends GuestHost> {
  readonly #plan: GuestPlan;
  readonly #random: Random;
  /** The expected contents of all RAM, block by block. */
  ram: Uint8Array[];
  /** The expected journals of the devices, by id. */
  readonly journals: Map<string, number[]>;
  /** The machine that ran the guest last. */
  home: Machine;
  /** Machines that run the guest or have begun to. */
  readonly runners = new Set<Machine>();
  pausedByUser: boolean;
  ended = false;
  writes = 0;
  #next = 0;
  readonly #homes = new Set<Machine>();

  constructor(plan: GuestPlan, seed: number, home: Machine) {
    this.#plan = plan;
    this.#random = new Random(seed ^ 0x5eed);
    this.home = home;
    this.#homes.add(home);
    this.ram = copyRam(home.buffers);
    this.journals = new Map(home.devices.map((device) => [device.id, [...device.journal]]));
    this.pausedByUser = plan.pausedByUser;
    if (!plan.pausedByUser) this.runners.add(home);
  }

  /** Does the guest's work of one interval: `writes` writes to memory, and entries to its devices. */
  work(machine: Machine, writes: number): void {
    for (let i = 0; i < writes; i++) this.#write(machine);
    for (const device of machine.devices) {
      const entry = this.#random.next() | 0;
      device.append(entry);
      this.journals.get(device.id)?.push(entry);
    }
  }

  /** Whether the guest runs on `machine`, or has run there. */
  hasLived(machine: Machine): boolean {
    return this.#homes.has(machine);
  }

  /** Takes the memory of `machine` for the guest's from now on, and drops what the guest did elsewhere since. */
  moveTo(machine: Machine): void {
    this.home = machine;
    this.#homes.add(machine);
    this.ram = copyRam(machine.buffers);
    for (const device of machine.devices) this.journals.set(device.id, [...device.journal]);
  }

  /** Writes memory of `machine`. On the guest's home machine the expected contents change too. */
  store(machine: Machine, block: number, offset: number, bytes: Uint8Array): void {
    machine.buffers.write(block, offset, bytes);
    if (machine === this.home) this.ram[block]?.set(bytes, offset);
    machine.mark(block, offset, bytes.byteLength);
    this.writes++;
  }

  #write(machine: Machine): void {
    const random = this.#random;
    const block = random.below(this.ram.length);
    const pages = (this.ram[block] as Uint8Array).byteLength / PAGE_BYTES;
    if (random.oneIn(60)) {
      this.#discard(machine, block, random.below(pages), 1 + random.below(20));
      return;
    }
    const page = this.#page(pages);
    const whole = this.#plan.pattern === 'whole pages';
    const bytes = new Uint8Array(whole ? PAGE_BYTES : 1 + random.below(16));
    // One write in eight is of zeros, so that some pages become zero.
    if (!random.oneIn(8)) for (let i = 0; i < bytes.length; i++) bytes[i] = random.next();
    this.store(machine, block, page * PAGE_BYTES + (whole ? 0 : random.below(PAGE_BYTES - bytes.length)), bytes);
  }

  #page(pages: number): number {
    switch (this.#plan.pattern) {
      case 'in order':
        return this.#next++ % pages;
      case 'few pages':
        return this.#random.below(Math.min(pages, 4));
      default:
        return this.#random.below(pages);
    }
  }

  /** Discards pages, as a balloon device does: they are zero from now on. */
  #discard(machine: Machine, block: number, firstPage: number, count: number): void {
    const ram = this.ram[block] as Uint8Array;
    const pageCount = Math.min(count, ram.byteLength / PAGE_BYTES - firstPage);
    machine.buffers.blocks[block]?.discard?.({ firstPage, pageCount });
    ram.fill(0, firstPage * PAGE_BYTES, (firstPage + pageCount) * PAGE_BYTES);
    machine.mark(block, firstPage * PAGE_BYTES, pageCount * PAGE_BYTES);
    this.writes++;
  }
}

/** Fills `percent` of all pages with contents that differ from page to page. */
export function fill(buffers: BufferMemory, percent: number, seed: number): void {
  const random = new Random(seed);
  for (const [block, { byteLength }] of buffers.blocks.entries()) {
    for (let page = 0; page < byteLength / PAGE_BYTES; page++) {
      if (random.below(100) >= percent) continue;
      const bytes = new Uint8Array(PAGE_BYTES).fill(random.next());
      bytes[0] = page;
      bytes[1] = block;
      buffers.write(block, page * PAGE_BYTES, bytes);
    }
  }
}
