import {
  hasState,
  isSaving,
  MIGRATION_STATES,
  type MigrationState,
  migrationPath,
  STATE_NUMBER,
  stateOf,
} from '@godwit/vfio/unstable';
import { describe, expect, test } from '@jest/globals';

/** The arcs that drivers implement, as linux/vfio.h lists them ("the driver implements the following behavior ..."). */
const ARCS: readonly (readonly [MigrationState, MigrationState])[] = [
  ['RUNNING_P2P', 'STOP'],
  ['STOP_COPY', 'STOP'],
  ['RESUMING', 'STOP'],
  ['PRE_COPY', 'RUNNING'],
  ['RUNNING_P2P', 'RUNNING'],
  ['PRE_COPY_P2P', 'RUNNING_P2P'],
  ['RUNNING', 'RUNNING_P2P'],
  ['STOP', 'RUNNING_P2P'],
  ['RUNNING', 'PRE_COPY'],
  ['RUNNING_P2P', 'PRE_COPY_P2P'],
  ['STOP', 'STOP_COPY'],
  ['PRE_COPY', 'PRE_COPY_P2P'],
  ['PRE_COPY_P2P', 'PRE_COPY'],
  ['PRE_COPY_P2P', 'STOP_COPY'],
  ['STOP', 'RESUMING'],
];

const KINDS = [
  { p2p: true, preCopy: true },
  { p2p: true, preCopy: false },
  { p2p: false, preCopy: true },
  { p2p: false, preCopy: false },
];

/** Arcs of a device that lacks states: without P2P those through a P2P state are joined, pre-copy's are just not there. */
function arcsOf(kind: (typeof KINDS)[number]): readonly (readonly [MigrationState, MigrationState])[] {
  const has = (state: MigrationState) => hasState(state, kind);
  const own = ARCS.filter(([from, to]) => has(from) && has(to));
  const absent = (state: MigrationState) => !has(state) && (kind.preCopy || state !== 'PRE_COPY_P2P');
  const joined = ARCS.filter(([from, to]) => has(from) && absent(to)).flatMap(([from, via]) =>
    ARCS.filter(([other, to]) => other === via && has(to) && to !== from).map(([, to]) => [from, to] as const),
  );
  return [...own, ...joined];
}

/** Length of the shortest way with no state of saving in between, unless it is the end's own session. */
function shortest(from: MigrationState, to: MigrationState, kind: (typeof KINDS)[number]): number | null {
  const arcs = arcsOf(kind);
  const session = isSaving(from) && isSaving(to);
  let reached = new Set<MigrationState>([from]);
  for (let steps = 1; steps <= 8; steps++) {
    const next = new Set<MigrationState>();
    for (const at of reached) {
      if (at !== from && isSaving(at) && !session && at !== to && !isSaving(to)) continue;
      for (const [a, b] of arcs) if (a === at) next.add(b);
    }
    if (next.has(to)) return steps;
    reached = next;
  }
  return null;
}

describe.each(KINDS)('p2p $p2p, pre-copy $preCopy', (kind) => {
  const pairs = MIGRATION_STATES.flatMap((from) => MIGRATION_STATES.map((to) => [from, to] as const));

  test.each(pairs)('%s to %s', (from, to) => {
    const path = migrationPath(from, to, kind);
    const forbidden =
      from === 'ERROR' ||
      to === 'ERROR' ||
      !hasState(from, kind) ||
      !hasState(to, kind) ||
      (from === 'STOP_COPY' && (to === 'PRE_COPY' || to === 'PRE_COPY_P2P'));
    if (forbidden) {
      expect(path).toBeNull();
      return;
    }
    const steps = path ?? [];
    if (from === to) {
      expect(steps).toEqual([]);
      return;
    }
    expect(steps.at(-1)).toBe(to);
    const arcs = arcsOf(kind).map(([a, b]) => `${a}>${b}`);
    for (const [i, state] of steps.entries()) expect(arcs).toContain(`${i === 0 ? from : steps[i - 1]}>${state}`);
    expect(new Set(steps).size).toBe(steps.length);
    expect(steps.length).toBe(shortest(from, to, kind));
  });
});

test.each([
  ['RUNNING', 'STOP_COPY', ['RUNNING_P2P', 'STOP', 'STOP_COPY']],
  ['PRE_COPY', 'STOP_COPY', ['PRE_COPY_P2P', 'STOP_COPY']],
  ['PRE_COPY', 'STOP', ['RUNNING', 'RUNNING_P2P', 'STOP']],
  ['STOP_COPY', 'RUNNING', ['STOP', 'RUNNING_P2P', 'RUNNING']],
  ['RUNNING', 'RESUMING', ['RUNNING_P2P', 'STOP', 'RESUMING']],
] as const)('as seen in Linux 6.12: %s to %s', (from, to, path) => {
  expect(migrationPath(from, to, { p2p: true, preCopy: true })).toEqual(path);
});

test('numbers and names agree, and a number from a newer kernel has none', () => {
  for (const state of MIGRATION_STATES) expect(stateOf(STATE_NUMBER[state])).toBe(state);
  expect(stateOf(8)).toBeNull();
});
