import { checkSweep, describeSweep, SWEEP_DONE, SWEEP_LETTER } from '@godwit/example-node-vmm/guest';
import { slowLink } from './link/slow-link.js';
import { warmMemory } from './memory/warm-memory.js';
import { withOpened } from './opened.js';
import type { Sample } from './sample.js';
import type { GuestSpec, MoveSettings, Patience, Vmm, VmmProcess } from './vmm.js';

const MIB = 2 ** 20;
/** Time limit of a run without the migration's own budget, in milliseconds: on a busy machine a guest takes long to boot. */
const LONGEST_MS = 180_000;

/** The part of its former speed that a guest has to reach after a migration by post-copy. */
const NEARLY = 0.9;

/** A migration from one new process to another. */
export interface Move {
  readonly spec: GuestSpec;
  readonly settings: MoveSettings;
  readonly patience: Patience;
  /** Bytes that the destination will allocate, which are warmed before the migration. */
  readonly warmBytes: number;
  /** The link's rate; undefined for that of loopback. */
  readonly linkBytesPerSecond?: number;
}

/**
 * Migrates a guest that is sweeping, or has halted after its passes. The memory of a sweeping guest is checked at the destination, after
 * 64 more passes.
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
    const speed = settings.postcopyBytesPerSecond === 0 ? await source.speed?.() : undefined;
    const departure = await source.send(port, settings, patience);
    const arrivedAtMs = await destination.arrival();
    const latencies = settings.postcopyBytesPerSecond === undefined ? undefined : await destination.faultLatencies();
    const reached = speed === undefined ? undefined : await destination.reaches?.(NEARLY * speed);
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
        ...(latencies === undefined ? {} : quantiles(latencies)),
        ...(reached === undefined ? {} : { speedMs: reached - departure.pausedAtMs }),
      },
      endedByItself: departure.endedByItself,
      ...(wrong === undefined ? {} : { wrong }),
    };
  });
}

/** The figures of a log2 histogram: of each quantile, the upper end of its bucket. */
function quantiles(counts: readonly number[]): Sample['figures'] {
  const faults = counts.reduce((sum, count) => sum + count, 0);
  const below = (part: number): number => {
    let sum = 0;
    const bucket = counts.findIndex((count) => {
      sum += count;
      return sum >= part * faults;
    });
    return 2 ** (bucket + 1);
  };
  if (faults === 0) return { faults };
  return {
    faults,
    faultMedianUs: below(0.5),
    fault99Us: below(0.99),
    fault999Us: below(0.999),
    faultWorstUs: below(1),
  };
}

async function wrongAt(process: VmmProcess): Promise<string | undefined> {
  await process.printed(SWEEP_LETTER);
  const report = checkSweep(await process.firstBytes());
  return report.wrongCount === 0 ? undefined : describeSweep(report);
}
