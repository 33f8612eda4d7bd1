import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import {
  delta,
  firstOpinion,
  type MigrateOptions,
  type MigrationSummary,
  migrate,
  reclaim,
  roundCap,
  withinDowntimeLimit,
} from '@godwit/core';
import { connectTo, lz4, tcp, zstd, zstdAvailable } from '@godwit/transport';
import { limited } from '@godwit/transport/testing';
import { median, type Report, type Row } from '../report.js';
import { RewritingGuest } from './rewriting-guest.js';

/** 1 Gbit/s. */
const SLOW_LINK = 125e6;

/** Downtime limit, in milliseconds: a guest that rewrites a quarter of its memory in half a second exceeds it over 1 Gbit/s, raw. */
const DOWNTIME_LIMIT_MS = 100;

/** Rounds after which a guest that does not converge is switched over. */
const MOST_ROUNDS = 8;

type Settings = Pick<MigrateOptions, 'encodings'>;

/**
 * Migrates a guest that rewrites a few bytes of many pages, alternately raw and with encodings: over a link of 1 Gbit/s, where encodings
 * must pay, and over unlimited loopback, where they must not cost time.
 */
export async function encodingsBenchmark(options: {
  readonly byteLength: number;
  readonly runs: number;
}): Promise<Report> {
  const { byteLength, runs } = options;
  const compression = zstdAvailable ? zstd() : lz4();
  const deltas = delta();
  const both = { encodings: [deltas, compression] };
  const destination = fork(new URL('./destination.js', import.meta.url), [String(byteLength)]);
  const guest = new RewritingGuest(byteLength);
  try {
    const [port] = (await once(destination, 'message')) as [number];
    const move = (settings: Settings, bytesPerSecond?: number) => migration(guest, port, settings, bytesPerSecond);
    // The first migrations are a warm-up for the JIT compiler.
    await move({});
    await move({ ...both }, SLOW_LINK);

    const rows: Row[] = [];
    const slowRaw: MigrationSummary[] = [];
    const slowBoth: MigrationSummary[] = [];
    for (let run = 0; run < Math.ceil(runs / 2); run++) {
      slowRaw.push(await move({}, SLOW_LINK));
      slowBoth.push(await move(both, SLOW_LINK));
    }
    const slowDelta = await move({ encodings: [deltas] }, SLOW_LINK);
    const slowCompressed = await move({ encodings: [compression] }, SLOW_LINK);
    rows.push(
      ...figures('1 Gbit/s, raw', slowRaw),
      ...figures('1 Gbit/s, delta', [slowDelta]),
      ...figures(`1 Gbit/s, ${compression.name}`, [slowCompressed]),
      ...figures(`1 Gbit/s, delta and ${compression.name}`, slowBoth),
      row('1 Gbit/s: wire bytes, raw / encoded', ratio(slowRaw, slowBoth, 'wireBytes'), '', { atLeast: 3 }),
      row('1 Gbit/s: total time, raw / encoded', ratio(slowRaw, slowBoth, 'totalMs'), '', { atLeast: 3 }),
    );

    const pairs: { raw: MigrationSummary; encoded: MigrationSummary }[] = [];
    for (let run = 0; run < runs; run++) {
      if (run % 2 === 0) {
        const raw = await move({});
        pairs.push({ raw, encoded: await move(both) });
      } else {
        const encoded = await move(both);
        pairs.push({ raw: await move({}), encoded });
      }
    }
    rows.push(
      ...figures(
        'loopback, raw',
        pairs.map(({ raw }) => raw),
      ),
      ...figures(
        `loopback, delta and ${compression.name}`,
        pairs.map(({ encoded }) => encoded),
      ),
      row(
        'loopback: total time, encoded / raw',
        median(pairs.map(({ raw, encoded }) => encoded.totalMs / raw.totalMs)),
        '',
        {
          atMost: 1.05,
        },
      ),
    );
    return {
      benchmark: `encodings: ${byteLength / 2 ** 20} MiB, a quarter of it rewritten 8 bytes a page at 120,000 pages/s`,
      rows,
      notes: [
        `policy: switch over within ${DOWNTIME_LIMIT_MS} ms of downtime, or after ${MOST_ROUNDS} rounds; memory: a mixture with 15 % zero pages`,
        `the ratios are medians; on loopback of ${runs} pairs, which take turns in going first`,
      ],
    };
  } finally {
    await guest.pause();
    guest.memory.close();
    await gone(destination);
  }
}

async function migration(
  guest: RewritingGuest,
  port: number,
  settings: Settings,
  bytesPerSecond: number | undefined,
): Promise<MigrationSummary> {
  const transport = tcp({ host: '127.0.0.1', port });
  const link = connectTo(bytesPerSecond === undefined ? transport : limited(transport, bytesPerSecond));
  await guest.resume();
  const policy = firstOpinion(withinDowntimeLimit, roundCap(MOST_ROUNDS, 'switchover'));
  const { result } = migrate(guest, link, { ...settings, policy, downtimeLimitMs: DOWNTIME_LIMIT_MS });
  const summary = await result;
  reclaim(guest, { because: 'the destination has no vCPUs: the guest it received never runs' });
  return summary;
}

function figures(name: string, summaries: readonly MigrationSummary[]): Row[] {
  const of = (pick: (summary: MigrationSummary) => number) => median(summaries.map(pick));
  return [
    row(
      `${name}: total`,
      of(({ totalMs }) => totalMs),
      'ms',
    ),
    row(
      `${name}: downtime`,
      of(({ downtimeMs }) => downtimeMs),
      'ms',
    ),
    row(
      `${name}: rounds`,
      of(({ rounds }) => rounds.length),
      '',
    ),
    row(
      `${name}: on the wire`,
      of(({ wireBytes }) => wireBytes / 2 ** 20),
      'MiB',
    ),
    row(
      `${name}: pages as deltas`,
      of(({ pages }) => pages.delta),
      '',
    ),
    row(
      `${name}: pages compressed`,
      of(({ pages }) => pages.compressed),
      '',
    ),
  ];
}

function ratio(
  raw: readonly MigrationSummary[],
  encoded: readonly MigrationSummary[],
  what: 'wireBytes' | 'totalMs',
): number {
  return median(raw.map((summary, i) => summary[what] / (encoded[i] as MigrationSummary)[what]));
}

function row(name: string, value: number, unit: string, target: Pick<Row, 'atLeast' | 'atMost'> = {}): Row {
  return { name, value, unit, ...target };
}

async function gone(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return;
  const exit = once(child, 'exit');
  child.disconnect();
  await exit;
}
