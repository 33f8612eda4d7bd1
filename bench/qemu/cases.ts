import { join } from 'node:path';
import { DEFAULT_SWEEP, type Sweep } from '@godwit/example-node-vmm/guest';
import { type Move, measureMove } from './move.js';
import type { Case, Entrant } from './sample.js';
import { measureSnapshot } from './snapshot.js';
import type { GuestSpec, MoveSettings, Patience, Vmm } from './vmm.js';

const MIB = 2 ** 20;
const GIB = 2 ** 30;
/** 1 Gbit/s. */
const GIGABIT = 125e6;

/** The VMMs that are compared, and the folder for their snapshots. */
export interface Contestants {
  readonly newest: Vmm;
  /** Only with `--all`. */
  readonly older: Vmm | undefined;
  readonly godwit: Vmm;
  /** A folder on a disk. */
  readonly disk: string;
}

const SETTINGS: MoveSettings = { channels: 0, downtimeLimitMs: 300, bytesPerSecond: 0, deltas: false };
/** The budget of a migration that takes only seconds. */
const AMPLE: Patience = { budgetMs: 120_000, thenDowntimeLimitMs: 600_000 };
/** The sweep of an idle guest. */
const IDLE: Required<Sweep> = { first: MIB, end: MIB, passes: 1 };
const RANDOM_2_GIB: GuestSpec = { memoryBytes: 2 * GIB, sweep: IDLE, random: true, memoryFile: false };
/** The memory and the sweep are those of QEMU's own test guest. */
const SWEEPING: GuestSpec = { memoryBytes: 150 * MIB, sweep: DEFAULT_SWEEP, random: false, memoryFile: false };

export const CASE_NAMES = ['bulk', 'sparse', 'sweep', 'sweep-limited', 'xbzrle', 'snapshot', 'postcopy'] as const;
export type CaseName = (typeof CASE_NAMES)[number];

/** Channels and deltas with QEMU's names. */
function qemuWay({ channels, deltas, postcopyBytesPerSecond }: MoveSettings): string {
  const preempt = postcopyBytesPerSecond === undefined ? '' : ', postcopy-preempt';
  return `${channels !== 'auto' && channels > 0 ? `, multifd x${channels}` : ''}${deltas ? ', xbzrle' : ''}${preempt}`;
}

function godwitWay({ channels, deltas }: MoveSettings): string {
  const threads = channels === 0 ? ', main thread' : `, ${channels} channel${channels === 1 ? '' : 's'} on workers`;
  return `${channels === 'auto' ? '' : threads}${deltas ? ', delta' : ''}`;
}

const named = (vmm: Vmm, what: string): Vmm => ({ ...vmm, name: vmm.name + what });

/** The newest QEMU alone, whose guest's memory is a memory file. */
function withMemoryFile(contestants: Contestants): Contestants {
  return { ...contestants, newest: named(contestants.newest, ', memory file'), older: undefined };
}

type Common = Omit<Move, 'settings'> & { readonly settings?: Partial<MoveSettings> };

/** The entrants of a migration: one for each VMM and number of channels. */
function movers(
  { newest, older, godwit }: Contestants,
  channels: { readonly qemu: readonly number[]; readonly godwit: readonly MoveSettings['channels'][] },
  { settings = {}, ...move }: Common,
): Entrant[] {
  const entrant = (vmm: Vmm, way: (settings: MoveSettings) => string, count: MoveSettings['channels']): Entrant => {
    const own = { ...SETTINGS, ...settings, channels: count };
    return { name: vmm.name + way(own), measure: () => measureMove(vmm, { ...move, settings: own }) };
  };
  const qemus = older === undefined ? [newest] : [older, newest];
  return [
    ...qemus.flatMap((vmm) => channels.qemu.map((count) => entrant(vmm, qemuWay, count))),
    ...channels.godwit.map((count) => entrant(godwit, godwitWay, count)),
  ];
}

/** The entrants for moves of the sweep guest by post-copy from the start. */
function postcopies(
  { newest, godwit, disk }: Contestants,
  channels: { readonly qemu: readonly number[]; readonly godwit: readonly MoveSettings['channels'][] },
  what: string,
  settings: Partial<MoveSettings>,
): Entrant[] {
  // QEMU before 11 has no histogram of page faults.
  const contestants = { newest: named(newest, what), older: undefined, godwit: named(godwit, what), disk };
  return movers(contestants, channels, { spec: SWEEPING, settings, patience: AMPLE, warmBytes: 256 * MIB });
}

const BUILDERS: Readonly<Record<CaseName, (contestants: Contestants) => Omit<Case, 'name'>>> = {
  bulk: (contestants) => {
    const common = { spec: RANDOM_2_GIB, patience: AMPLE, warmBytes: 2.25 * GIB };
    return {
      title: '2 GiB of random memory of an idle guest, over loopback, into a new process',
      columns: ['totalMs', 'saidTotalMs'],
      mayNeverEnd: false,
      entrants: [
        ...movers(contestants, { qemu: [0, 2], godwit: ['auto', 0, 1, 2, 4] }, common),
        // Anonymous memory comes in huge pages of 2 MiB, memory files (Godwit's kind of memory) in pages of 4 KiB.
        ...movers(
          withMemoryFile(contestants),
          { qemu: [0, 2], godwit: [] },
          { ...common, spec: { ...RANDOM_2_GIB, memoryFile: true } },
        ),
      ],
    };
  },

  sparse: (contestants) => {
    const spec = { memoryBytes: 8 * GIB, sweep: { first: MIB, end: 513 * MIB, passes: 1 }, random: false };
    const common = { patience: AMPLE, warmBytes: GIB };
    return {
      title: '8 GiB of which an idle guest has touched 512 MiB, over loopback, into a new process',
      columns: ['totalMs', 'saidTotalMs', 'wireMiB'],
      mayNeverEnd: false,
      entrants: [
        ...movers(
          contestants,
          { qemu: [0, 2], godwit: ['auto', 2] },
          { ...common, spec: { ...spec, memoryFile: false } },
        ),
        // A hole of a memory file is populated when it is read, and QEMU reads all of them.
        ...movers(
          withMemoryFile(contestants),
          { qemu: [2], godwit: [] },
          { ...common, spec: { ...spec, memoryFile: true }, warmBytes: 9 * GIB },
        ),
      ],
    };
  },

  sweep: (contestants) => ({
    title: 'a guest that writes 99 MiB over and over; no bandwidth limit, downtime limit 300 ms',
    columns: ['totalMs', 'predictedDowntimeMs', 'saidDowntimeMs', 'downtimeMs', 'pauses'],
    mayNeverEnd: true,
    entrants: movers(
      contestants,
      { qemu: [0, 2], godwit: ['auto', 2] },
      { spec: SWEEPING, patience: { budgetMs: 20_000, thenDowntimeLimitMs: 30_000 }, warmBytes: 256 * MIB },
    ),
  }),

  'sweep-limited': (contestants) => ({
    title: 'the same guest at 128 MiB/s, downtime limit 300 ms; after 10 s the limit is raised to 30 s',
    columns: ['totalMs', 'predictedDowntimeMs', 'saidDowntimeMs', 'downtimeMs', 'pauses'],
    mayNeverEnd: true,
    entrants: movers(
      contestants,
      { qemu: [0, 2], godwit: ['auto', 2] },
      {
        spec: SWEEPING,
        settings: { bytesPerSecond: 128 * MIB },
        patience: { budgetMs: 10_000, thenDowntimeLimitMs: 30_000 },
        warmBytes: 256 * MIB,
      },
    ),
  }),

  xbzrle: (contestants) => ({
    title:
      'the same guest, one byte a page, over 1 Gbit/s, with XBZRLE or deltas; after 20 s the limit is raised to 30 s',
    columns: ['totalMs', 'predictedDowntimeMs', 'saidDowntimeMs', 'downtimeMs', 'wireMiB'],
    mayNeverEnd: true,
    entrants: movers(
      contestants,
      { qemu: [0], godwit: ['auto'] },
      {
        spec: SWEEPING,
        settings: { deltas: true },
        patience: { budgetMs: 20_000, thenDowntimeLimitMs: 30_000 },
        warmBytes: 256 * MIB,
        linkBytesPerSecond: GIGABIT,
      },
    ),
  }),

  postcopy: (contestants) => ({
    title: 'the same guest by post-copy from the start, 32 MiB/s in the background: how long a vCPU waits for a page',
    columns: ['totalMs', 'downtimeMs', 'speedMs', 'faults', 'faultMedianUs', 'fault99Us', 'fault999Us', 'faultWorstUs'],
    mayNeverEnd: false,
    entrants: [
      ...postcopies(contestants, { qemu: [0], godwit: ['auto'] }, '', { postcopyBytesPerSecond: 32 * MIB }),
      ...postcopies(contestants, { qemu: [], godwit: ['auto'] }, ', main threads blocked', {
        postcopyBytesPerSecond: 32 * MIB,
        blockedMs: 50,
        // Each step of the switchover waits for a main thread, which takes longer than the usual limit.
        downtimeLimitMs: 3000,
      }),
      ...postcopies(contestants, { qemu: [0], godwit: ['auto'] }, ', no limit', { postcopyBytesPerSecond: 0 }),
    ],
  }),

  snapshot: ({ newest, godwit, disk }) => {
    const snapshot = { spec: RANDOM_2_GIB, warmBytes: 2.25 * GIB, path: join(disk, 'snapshot') };
    return {
      title: '2 GiB of random memory of an idle guest into a file until it is on the disk, and from the disk',
      columns: ['totalMs', 'loadMs', 'diskMiB'],
      mayNeverEnd: false,
      // QEMU before 8.2 has no snapshots of this kind.
      entrants: [
        {
          name: `${newest.name}, mapped-ram, multifd x2, direct-io`,
          measure: () => measureSnapshot(newest, { ...snapshot, settings: { ...SETTINGS, channels: 2 } }),
        },
        { name: godwit.name, measure: () => measureSnapshot(godwit, { ...snapshot, settings: SETTINGS }) },
      ],
    };
  },
};

/** The case of this name, with all its entrants. */
export function caseOf(name: CaseName, contestants: Contestants): Case {
  return { name, ...BUILDERS[name](contestants) };
}
