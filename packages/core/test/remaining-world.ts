import { type MigrateOptions, type Progress, withinDowntimeLimit } from '@godwit/core';
import { ToyVm } from '@godwit/core/testing';
import { random, start, type Toy } from './toy-migration.js';

/** Small pages: what is simulated counts pages, not bytes. */
export const PAGE = 256;
export const PAGES = 8192;
/** 10,000 pages a second, framing aside. */
export const LINK = 10_000 * PAGE;

/** How a guest writes. */
export interface Writes {
  readonly kind: 'uniform' | 'hot' | 'sweep';
  /** Of the rate at which pages go out. */
  readonly ratio: number;
  /** Pages of the working set. */
  readonly set: number;
  readonly seed: number;
}

/** A migration of a guest that writes at a steady rate while it runs. */
export function world({ kind, ratio, set, seed }: Writes, migrate: MigrateOptions = {}, link = {}): Toy {
  const ram = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }];
  const source = new ToyVm(ram, { pageSize: PAGE });
  source.write(0, 0, new Uint8Array(PAGES * PAGE).fill(1));
  const toy = start({
    source,
    destination: new ToyVm(ram, { pageSize: PAGE, running: false }),
    link: { bytesPerSecond: LINK, latencyMs: 0.2, ...link },
    migrate: { policy: withinDowntimeLimit, ...migrate },
  });
  const next = random(seed);
  void (async () => {
    let owed = 0;
    let last = 0;
    let at = next() % set;
    const page = () => {
      if (kind === 'sweep') return at++ % set;
      // A tenth of the set takes nine writes of ten.
      if (kind === 'hot' && next() % 10 > 0) return next() % Math.ceil(set / 10);
      return next() % set;
    };
    while (!['completed', 'failed', 'cancelled'].includes(toy.migration.state)) {
      await toy.clock.sleep(1);
      const now = toy.clock.now();
      owed += ((now - last) / 1000) * ratio * 10_000;
      last = now;
      if (!source.running) owed = 0;
      for (; owed >= 1; owed--) source.write(0, page() * PAGE, Uint8Array.of(next()));
    }
  })();
  return toy;
}

/** What a migration has told of the time that was left after round 1, with the time that then really was left. */
export interface Told {
  readonly progress: Progress;
  readonly actualMs: number;
}

export async function told(toy: Toy): Promise<readonly Told[]> {
  let runsAt = 0;
  toy.destination.onResume = () => {
    runsAt = toy.clock.now();
  };
  const begun = toy.clock.now();
  const { code } = await toy.settled();
  if (code !== undefined) throw new Error(`the migration failed: ${code}`);
  return toy.events.flatMap((event) => {
    if (event.type !== 'progress' || event.progress.round < 2) return [];
    const actualMs = runsAt - begun - event.progress.elapsedMs;
    return actualMs > 0 ? [{ progress: event.progress, actualMs }] : [];
  });
}
