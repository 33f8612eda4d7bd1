import type { MigrateOptions, PolicyInput } from '@godwit/core';
import { type MemoryLinkOptions, ToyVm } from '@godwit/core/testing';
import { start, type Toy, type ToyOptions } from './toy-migration.js';

export const PAGE = 4096;
/** 16 MiB: 16 s over a link of 1 MiB/s. */
export const PAGES = 4096;
export const RAM = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }];
export const LINK: MemoryLinkOptions = { bytesPerSecond: 2 ** 20 };

/** Fills every page of a guest of `RAM`. */
export function filled<T extends ToyVm>(vm: T): T {
  for (let page = 0; page < PAGES; page++) vm.write(0, page * PAGE, new Uint8Array(PAGE).fill((page % 255) + 1));
  return vm;
}

/** Starts a migration whose round 1 takes 16 s. */
export function slowly(migrate: MigrateOptions, options: ToyOptions = {}): Toy {
  return start({
    source: filled(new ToyVm(RAM)),
    destination: new ToyVm(RAM, { running: false }),
    link: LINK,
    ...options,
    migrate,
  });
}

/** Writes one page every `ms` milliseconds of virtual time, while the guest runs and the migration goes on. */
export async function dirty({ clock, source, migration }: Toy, ms: number, pages = PAGES): Promise<void> {
  for (let i = 0; migration.ownership !== 'released'; i++) {
    await clock.sleep(ms);
    if (['failed', 'cancelled', 'completed'].includes(migration.state)) return;
    if (source.running) source.write(0, ((i * 37) % pages) * PAGE, Uint8Array.of(i));
  }
}

/** What a policy saw, as it was then. */
export function seen(input: PolicyInput): PolicyInput {
  return structuredClone(input);
}
