import { DELTA_CACHE_BYTES, type Departure, type MoveSettings, now, type Patience } from '../vmm.js';
import type { Qmp, QmpEvent } from './qmp.js';

/** Milliseconds between two queries of a running migration. */
const QUERY_MS = 50;

/** The fields of `query-migrate` that are used here (qapi/migration.json). */
interface MigrationInfo {
  readonly status?: string;
  readonly 'error-desc'?: string;
  readonly 'total-time'?: number;
  readonly downtime?: number;
  readonly 'expected-downtime'?: number;
  readonly ram?: { readonly transferred: number };
  readonly 'postcopy-latency-dist'?: readonly number[];
}

/**
 * Sets QEMU's capabilities and parameters, on either side. With a return path the source knows when the guest runs at the destination,
 * so that its times are comparable with Godwit's.
 */
export async function setUp(qmp: Qmp, settings: MoveSettings, to: 'socket' | 'file' = 'socket'): Promise<void> {
  const { deltas, downtimeLimitMs, bytesPerSecond, postcopyBytesPerSecond } = settings;
  const channels = settings.channels === 'auto' ? 0 : settings.channels;
  const wanted = [
    'events',
    ...(to === 'socket' ? ['return-path'] : ['mapped-ram']),
    ...(channels > 0 ? ['multifd'] : []),
    ...(deltas ? ['xbzrle'] : []),
    ...(postcopyBytesPerSecond === undefined ? [] : ['postcopy-ram', 'postcopy-preempt', 'postcopy-blocktime']),
  ];
  await qmp.execute('migrate-set-capabilities', {
    capabilities: wanted.map((capability) => ({ capability, state: true })),
  });
  await qmp.execute('migrate-set-parameters', {
    'downtime-limit': downtimeLimitMs,
    'max-bandwidth': bytesPerSecond,
    ...(postcopyBytesPerSecond === undefined ? {} : { 'max-postcopy-bandwidth': postcopyBytesPerSecond }),
    ...(channels > 0 ? { 'multifd-channels': channels } : {}),
    ...(deltas ? { 'xbzrle-cache-size': DELTA_CACHE_BYTES } : {}),
    ...(to === 'file' && channels > 0 ? { 'direct-io': true } : {}),
  });
}

const isEnd = ({ event, data }: QmpEvent): boolean =>
  event === 'MIGRATION' && ['completed', 'failed', 'cancelled'].includes(String(data['status']));

/** One migration at the source. */
export class QemuMigration {
  readonly #qmp: Qmp;
  #over = false;
  #predictedDowntimeMs: number | undefined;
  #endedByItself = true;

  constructor(qmp: Qmp) {
    this.#qmp = qmp;
  }

  /** Runs the migration. @throws Error with QEMU's message when it fails */
  async run(uri: string, patience?: Patience, postcopy = false): Promise<Departure> {
    const qmp = this.#qmp;
    const before = qmp.events.length;
    const startedAtMs = now();
    await qmp.execute('migrate', { uri });
    // QEMU refuses `migrate-start-postcopy` before the migration is active.
    if (postcopy) {
      await qmp.event(({ event, data }) => event === 'MIGRATION' && data['status'] === 'active');
      await qmp.execute('migrate-start-postcopy');
    }
    const end = qmp.event(isEnd).finally(() => {
      this.#over = true;
    });
    await Promise.all([end, this.#watch(end, startedAtMs, patience)]);
    const info = await qmp.execute<MigrationInfo>('query-migrate');
    if (info.status !== 'completed') {
      throw new Error(`QEMU's migration is ${info.status}: ${info['error-desc'] ?? 'without a reason'}`);
    }
    const stops = qmp.events.slice(before).filter(({ event }) => event === 'STOP');
    return {
      startedAtMs,
      pausedAtMs: stops.at(-1)?.atMs ?? Number.NaN,
      pauses: stops.length,
      endedByItself: this.#endedByItself,
      saidTotalMs: info['total-time'] ?? Number.NaN,
      saidDowntimeMs: info.downtime ?? Number.NaN,
      predictedDowntimeMs: this.#predictedDowntimeMs,
      wireBytes: info.ram?.transferred ?? Number.NaN,
    };
  }

  /** Keeps the expected downtime until the migration ends, and raises the downtime limit after the budget. */
  async #watch(end: Promise<unknown>, startedAtMs: number, patience: Patience | undefined): Promise<void> {
    while (!this.#over) {
      const info = await this.#qmp.execute<MigrationInfo>('query-migrate');
      if (this.#endedByItself && info.status === 'active') this.#predictedDowntimeMs = known(info['expected-downtime']);
      if (patience !== undefined && this.#endedByItself && now() - startedAtMs > patience.budgetMs) {
        this.#endedByItself = info.status !== 'active';
        if (this.#endedByItself) continue;
        await this.#qmp.execute('migrate-set-parameters', { 'downtime-limit': patience.thenDowntimeLimitMs });
      }
      await untilNextQuery(end);
    }
  }
}

/** The latencies of page faults at a destination, once its memory is whole. */
export async function faultLatencies(qmp: Qmp): Promise<readonly number[]> {
  await qmp.event(isEnd);
  const { 'postcopy-latency-dist': counts } = await qmp.execute<MigrationInfo>('query-migrate');
  if (counts === undefined) throw new Error("QEMU's destination says nothing of the latency of its page faults");
  return counts;
}

/** Resolves when the migration ends or the next query is due. */
async function untilNextQuery(end: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const due = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, QUERY_MS);
  });
  try {
    await Promise.race([end, due]);
  } finally {
    clearTimeout(timer);
  }
}

/** QEMU 11 reports 2^63 - 1 while it has no estimate. */
function known(expectedMs: number | undefined): number | undefined {
  return expectedMs !== undefined && Number.isSafeInteger(expectedMs) ? expectedMs : undefined;
}
