import {
  DESTINATION_OWNERSHIP,
  type DestinationOwnershipEvent,
  type DestinationOwnershipState,
  GodwitError,
  Ownership,
  type OwnershipTable,
  SOURCE_OWNERSHIP,
  type SourceOwnershipEvent,
  type SourceOwnershipState,
} from '@godwit/core';
import { describe, expect, test } from '@jest/globals';

/** What each side's events lead to, written out once more: a change of the table is a change of the protocol. */
const SOURCE_LEGAL = [
  'running pause paused',
  'running fail kept',
  'paused go handedOver',
  'paused fail kept',
  'handedOver running released',
  'handedOver giveUp unknown',
  'handedOver recover recovered',
  'unknown settle handedOver',
  'unknown recover recovered',
];
const DESTINATION_LEGAL = [
  'receiving ready ready',
  'receiving fail abandoned',
  'ready go running',
  'ready fail abandoned',
  'ready recover recovered',
  'running released settled',
  'running giveUp untold',
  'running strand stranded',
];
const SOURCE_EVENTS: SourceOwnershipEvent[] = ['pause', 'fail', 'go', 'running', 'giveUp', 'settle', 'recover'];
const DESTINATION_EVENTS: DestinationOwnershipEvent[] = [
  'ready',
  'go',
  'fail',
  'released',
  'giveUp',
  'strand',
  'recover',
];

describe.each([
  { table: SOURCE_OWNERSHIP as OwnershipTable<string, string>, events: SOURCE_EVENTS, legal: SOURCE_LEGAL },
  {
    table: DESTINATION_OWNERSHIP as OwnershipTable<string, string>,
    events: DESTINATION_EVENTS,
    legal: DESTINATION_LEGAL,
  },
])('the ownership of the $table.role', ({ table, events, legal }) => {
  const states = Object.keys(table.states);

  test('the table lists these transitions and no other', () => {
    const listed = states.flatMap((from) =>
      Object.entries(table.transitions[from] ?? {}).map(([event, to]) => `${from} ${event} ${to}`),
    );
    expect(listed.sort()).toEqual([...legal].sort());
  });

  test('nothing leads out of the final states, something out of every other', () => {
    for (const state of states) {
      expect([state, table.states[state]?.final]).toEqual([
        state,
        Object.keys(table.transitions[state] ?? {}).length === 0,
      ]);
    }
  });

  test('every state is reached from the first', () => {
    expect([...pathsOf(table).keys()].sort()).toEqual([...states].sort());
  });

  test.each(states.flatMap((state) => events.map((event) => ({ state, event }))))(
    '"$event" while "$state"',
    ({ state, event }) => {
      const seen: string[] = [];
      const ownership = new Ownership<string, string>(table, (to, from, by) => {
        expect(ownership.state).toBe(to);
        seen.push(`${from} ${by} ${to}`);
      });
      for (const step of pathsOf(table).get(state) ?? []) ownership.apply(step);
      expect(ownership.state).toBe(state);
      expect(ownership.final).toBe(table.states[state]?.final);
      expect(ownership.mayRunGuest).toBe(table.states[state]?.mayRunGuest);
      const before = seen.length;
      const expected = legal.find((line) => line.startsWith(`${state} ${event} `));
      expect(ownership.allows(event)).toBe(expected !== undefined);
      if (expected !== undefined) {
        expect(ownership.apply(event)).toBe(expected.split(' ')[2]);
        expect(seen.slice(before)).toEqual([expected]);
        return;
      }
      const error = thrownBy(() => ownership.apply(event));
      expect(error.code).toBe('GODWIT_INVALID_STATE');
      expect(error.message).toContain(`"${event}" is illegal while the ${table.role}'s ownership is "${state}"`);
      expect(ownership.state).toBe(state);
      expect(seen).toHaveLength(before);
    },
  );

  test('a name that every object has is no event', () => {
    expect(new Ownership<string, string>(table).allows('constructor')).toBe(false);
  });
});

/**
 * Both tables side by side, joined by what one must have said before the other may believe it: `ready` before `go`,
 * `go` sent before `go` read, and so on. A message once sent may be read at any later time, or never: that is wider than
 * any link. `recover` needs the other side to be dead, as its caller promises.
 */
describe('both sides together', () => {
  interface Joint {
    readonly source: SourceOwnershipState;
    readonly destination: DestinationOwnershipState;
    readonly alive: 'both' | 'source' | 'destination';
    /** Events that were announced to the other side. */
    readonly said: string;
  }

  const BELIEVED: Readonly<Record<string, string>> = {
    'source go': 'destination ready',
    'source running': 'destination go',
    'destination go': 'source go',
    'destination released': 'source running',
  };

  function nexts(joint: Joint): Joint[] {
    const next: Joint[] = [];
    const step = (role: 'source' | 'destination', event: string, change: Partial<Joint>) => {
      const other = role === 'source' ? 'destination' : 'source';
      const needs = BELIEVED[`${role} ${event}`];
      if (joint.alive === other) return;
      if (event === 'recover' && joint.alive !== role) return;
      if (needs !== undefined && !joint.said.split(',').includes(needs)) return;
      const said = [...new Set([...joint.said.split(','), `${role} ${event}`])].sort().join(',');
      next.push({ ...joint, ...change, said });
    };
    for (const [event, to] of Object.entries(SOURCE_OWNERSHIP.transitions[joint.source])) {
      step('source', event, { source: to });
    }
    for (const [event, to] of Object.entries(DESTINATION_OWNERSHIP.transitions[joint.destination])) {
      step('destination', event, { destination: to });
    }
    if (joint.alive === 'both') next.push({ ...joint, alive: 'source' }, { ...joint, alive: 'destination' });
    return next;
  }

  function walk(): Map<string, Joint> {
    const first: Joint = { source: 'running', destination: 'receiving', alive: 'both', said: '' };
    const seen = new Map([[JSON.stringify(first), first]]);
    for (const joint of seen.values()) {
      for (const next of nexts(joint)) {
        const key = JSON.stringify(next);
        if (!seen.has(key)) seen.set(key, next);
      }
    }
    return seen;
  }

  test('never do both live in a state that may run the guest', () => {
    const all = [...walk().values()];
    expect(all.length).toBeGreaterThan(100);
    const both = all.filter(
      ({ source, destination, alive }) =>
        alive === 'both' &&
        SOURCE_OWNERSHIP.states[source].mayRunGuest &&
        DESTINATION_OWNERSHIP.states[destination].mayRunGuest,
    );
    expect(both).toEqual([]);
  });

  test('the source runs the guest again after "go" only when the destination is dead', () => {
    for (const { source, alive, said } of walk().values()) {
      if (said.split(',').includes('source go') && SOURCE_OWNERSHIP.states[source].mayRunGuest) {
        expect([source, alive]).toEqual(['recovered', 'source']);
      }
    }
  });

  test('each pair of the states below is met', () => {
    const met = new Set([...walk().values()].map(({ source, destination }) => `${source} ${destination}`));
    for (const pair of [
      'released settled',
      'handedOver untold',
      'unknown stranded',
      'unknown abandoned',
      'kept abandoned',
      'kept ready',
    ]) {
      expect(met).toContain(pair);
    }
  });
});

/** For each state that can be reached, events that lead to it. */
function pathsOf(table: OwnershipTable<string, string>): Map<string, readonly string[]> {
  const paths = new Map<string, readonly string[]>([[table.initial, []]]);
  for (const [state, path] of paths) {
    for (const [event, to] of Object.entries(table.transitions[state] ?? {})) {
      if (to !== undefined && !paths.has(to)) paths.set(to, [...path, event]);
    }
  }
  return paths;
}

function thrownBy(act: () => unknown): GodwitError {
  try {
    act();
  } catch (error) {
    if (GodwitError.is(error)) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}
