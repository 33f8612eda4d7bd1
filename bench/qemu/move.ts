import { checkSweep, describeSweep, SWEEP_DONE, SWEEP_LETTER } from '@godwit/example-node-vmm/guest';
import { slowLink } from './link/slow-link.js';
import { warmMemory } from './memory/warm-memory.js';
import { withOpened } from './opened.js';
import type { Sample } from './sample.js';
import type { GuestSpec, MoveSettings, Patience, Vmm, VmmProcess } from './vmm.js';

const MIB = 2 ** 20;
/** For all of a run but the migration's own budget: on a busy machine a guest takes long to boot. */
const LONGEST_MS = 180_000;

/** A migration from one new process to another. */
export interface Move {
  readonly spec: GuestSpec;
  readonly settings: MoveSettings;
  readonly patience: Patience;
  /** Memory that the destination will take, warmed before it does. */
  readonly warmBytes: number;
  /** The link's rate; without it, loopback's. */
  readonly linkBytesPerSecond?: number;
}

/**
 * Moves a guest that is busy sweeping, or has done its passes and halted; a busy one is checked at its new place, when it
 * has gone on for 64 passes there.
 */
export async function measureMove(vmm: Vmm, move: Move): Promise<Sample> {
  const { spec, settings, patience, linkBytesPerSecond } = move;
  const busy = spec.sweep.passes === 0;
  return withOpened(patience.budgetMs + LONGEST_MS, async (opened) => {
    const source = await opened.keep(vmm.boot(spec));
    await source.printed(busy ? SWEEP_LETTER : SWEEP_DONE);
    const destination = await opened.keep(vmm.empty(spec));
    let port = await destination.listen(settings);
    if (linkBytesPerSecond !== undefined) ({ port } = await opened.keep(slowLink(port, linkBytesPerSecond)));
    await warmMemory(move.warmBytes);
    const departure = await source.send(port, settings, patience);
    const arrivedAtMs = await destination.arrival();
    const wrong = busy ? await wrongAt(destination) : undefined;
    return {
      figures: {
        totalMs: arrivedAtMs - departure.startedAtMs,
        saidTotalMs: departure.saidTotalMs,
        ...(departure.predictedDowntimeMs === undefined ? {} : { predictedDowntimeMs: departure.predictedDowntimeMs }),
        saidDowntimeMs: departure.saidDowntimeMs,
        downtimeMs: arrivedAtMs - departure.pausedAtMs,
        pauses: departure.pauses,
        wireMiB: departure.wireBytes / MIB,
      },
      endedByItself: departure.endedByItself,
      ...(wrong === undefined ? {} : { wrong }),
    };
  });
}

async function wrongAt(process: VmmProcess): Promise<string | undefined> {
  await process.printed(SWEEP_LETTER);
  const report = checkSweep(await process.firstBytes());
  return report.wrongCount === 0 ? undefined : describeSweep(report);
}
