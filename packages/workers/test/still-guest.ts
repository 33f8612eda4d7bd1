import { randomFillSync } from 'node:crypto';
import { readdirSync, readlinkSync } from 'node:fs';
import { type GodwitError, type MigratableVm, SoftwareTracker } from '@godwit/core';
import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';

export const MIB = 2 ** 20;
const PAGE = 4096;

/** A guest whose vCPUs do nothing, in real memory. */
export class StillGuest implements MigratableVm {
  readonly memory: MappedGuestMemory;
  readonly tracker: SoftwareTracker;
  readonly trackers: readonly [SoftwareTracker];
  readonly devices = [];
  running: boolean;
  abandoned: GodwitError | undefined;

  constructor(running: boolean, sizes: readonly number[] = [24 * MIB, 8 * MIB]) {
    let address = 0;
    const blocks = sizes.map((byteLength, i) => {
      const block = { id: `ram${i}`, guestPhysicalAddress: address, byteLength };
      address += byteLength;
      return block;
    });
    this.memory = createGuestMemory({ blocks });
    this.tracker = new SoftwareTracker(this.memory);
    this.trackers = [this.tracker];
    this.running = running;
  }

  async pause(): Promise<void> {
    this.running = false;
  }

  async resume(): Promise<void> {
    this.running = true;
  }

  async abandon(error: GodwitError): Promise<void> {
    this.abandoned = error;
  }

  /** Random pages, lone and in runs, pages of zeros, and holes. */
  fill(): void {
    for (const block of this.memory.blocks) {
      const pages = block.byteLength / PAGE;
      for (let page = 0; page < pages; page++) {
        const part = Math.floor((page * 8) / pages);
        if (part === 0 || part === 5) continue;
        const bytes = block.view(page * PAGE, PAGE);
        if (part === 1 || (part < 4 && page % 3 === 0)) bytes.fill(0);
        else randomFillSync(bytes);
      }
    }
  }

  /** As a guest that writes a few bytes while it is migrated. */
  write(blockIndex: number, page: number, value: number): void {
    this.memory.blocks[blockIndex]?.view(page * PAGE, 16).fill(value);
    this.tracker.mark(blockIndex, page * PAGE, 16);
  }

  /** Whether the contents are those of `other`, to the last byte. */
  equals(other: StillGuest): boolean {
    return this.memory.blocks.every((block, i) => {
      const theirs = other.memory.blocks[i];
      return (
        theirs !== undefined && Buffer.compare(block.view(0, block.byteLength), theirs.view(0, theirs.byteLength)) === 0
      );
    });
  }
}

/** Descriptors of this process that are sockets. */
export function openSockets(): number {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith('socket:');
    } catch {
      // The one that the folder was listed with.
      return false;
    }
  }).length;
}
