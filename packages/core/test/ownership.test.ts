import { GodwitError } from '@godwit/core';
import {
  DESTINATION_OWNERSHIP,
  type DestinationOwnershipEvent,
  type DestinationOwnershipState,
  Ownership,
  type OwnershipTable,
  SOURCE_OWNERSHIP,
  type SourceOwnershipEvent,
  type SourceOwnershipState,
} from '@godwit/core/pages';
import { describe, expect, test } from '@jest/globals';

/** What each side's events lead to, written out once more: a change of the table is a change of the protocol. */
const SOURCE_LEGAL = [
  'running pause paused',
  'running fail kept',
  'paused back running',
  'paused transfer transferring',
  'paused fail kept',
  'transferring refused paused',
  'transferring go handedOver',
  'transferring giveUp unknown',
  'handedOver running released',
  'handedOver giveUp unknown',
  'handedOver recover recovered',
  'unknown settle handedOver',
  'unknown transfer transferring',
  'unknown recover recovered',
];
const DESTINATION_LEGAL = [
  'receiving ready ready',
  'receiving fail abandoned',
  'ready back receiving',
  'ready go asking',
  'ready fail abandoned',
  'ready recover recovering',
  'asking granted running',
  'asking denied stranded',
  'recovering granted recovered',
  'recovering denied ready',
  'running released settled',
  'running giveUp untold',
  'running strand stranded',
];
/** The states in which each side may run the guest: never both sides at once. */
const SOURCE_MAY_RUN = ['running', 'kept', 'recovered'];
const DESTINATION_MAY_RUN = ['running', 'settled', 'untold', 'recovered'];
const SOURCE_EVENTS: SourceOwnershipEvent[] = [
  'pause',
  'fail',
  'back',
  'transfer',
  'refused',
  'go',
  'running',
  'giveUp',
  'settle',
  'recover',
];
const DESTINATION_EVENTS: DestinationOwnershipEvent[] = [
  'ready',
  'go',
  'back',
  'granted',
  'denied',
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

  test('the table lists the states in which this side may run the guest', () => {
    expect({ role: table.role, mayRun: states.filter((state) => table.states[state]?.mayRunGuest) }).toEqual(
      legal === SOURCE_LEGAL
        ? { role: 'source', mayRun: SOURCE_MAY_RUN }
        : { role: 'destination', mayRun: DESTINATION_MAY_RUN },
    );
  });

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
 * The two tables side by side, joined by what one must have said before the other may believe it: `switchover` before `ready`,
 * `ready` before the transfer, `go` sent before `go` read, each of the same attempt; and by an authority whose answers may be late
 * or lost. A message once sent may be read at any later time, again, or never: that is wider than any link. `recover` may be called
 * by somebody who is wrong: then the authority decides.
 */
describe('both sides together', () => {
  /** More attempts only repeat what three show. */
  const ATTEMPTS = 3;

  interface Joint {
    readonly source: SourceOwnershipState;
    readonly destination: DestinationOwnershipState;
    readonly alive: 'both' | 'source' | 'destination';
    /** The source's attempt, and the one that the destination takes part in. */
    readonly attempt: number;
    readonly known: number;
    /** The source was told `granted`. */
    readonly told: boolean;
    /** A call of `transfer` is on its way to the authority. */
    readonly asked: boolean;
    readonly owner: 'source' | 'destination';
    /** The transfer of the source's attempt is refused for ever. */
    readonly refused: boolean;
    /** What either side has said, each with its attempt. */
    readonly said: readonly string[];
  }

  interface Tables {
    readonly source: OwnershipTable<SourceOwnershipState, SourceOwnershipEvent>;
    readonly destination: OwnershipTable<DestinationOwnershipState, DestinationOwnershipEvent>;
  }

  const TABLES: Tables = { source: SOURCE_OWNERSHIP, destination: DESTINATION_OWNERSHIP };
  const FIRST: Joint = {
    ...{ source: 'running', destination: 'receiving', alive: 'both', attempt: 1, known: 1 },
    ...{ told: false, asked: false, owner: 'source', refused: false, said: [] },
  };

  function sourceSteps(joint: Joint, { source: table }: Tables): Joint[] {
    const { attempt, said, owner, refused, alive } = joint;
    const taken: Partial<Record<SourceOwnershipEvent, Partial<Joint> | false>> = {
      pause: { said: [...said, `switchover ${attempt}`] },
      back: attempt < ATTEMPTS && { attempt: attempt + 1, refused: false, said: [...said, `back ${attempt}`] },
      transfer: (joint.source === 'unknown' ? !joint.told : said.includes(`ready ${attempt}`)) && { asked: true },
      // Answers of the authority, to `transfer` or to `withdraw`.
      refused: owner === 'source' && { refused: true, asked: false },
      go: owner === 'destination' && { told: true, asked: false, said: [...said, `go ${attempt}`] },
      running: said.includes('running') && { said: [...said, 'released'] },
      settle: joint.told && {},
      // Where no answer has come, the transfer is withdrawn first.
      recover:
        (alive === 'source' || (owner === 'source' && (refused || !joint.told))) &&
        ({ owner: 'source', refused: true, asked: false } as const),
    };
    const events = Object.entries(table.transitions[joint.source]) as [SourceOwnershipEvent, SourceOwnershipState][];
    return events.flatMap(([event, source]) => {
      const change = taken[event] ?? {};
      return change === false ? [] : [{ ...joint, ...change, source }];
    });
  }

  function destinationSteps(joint: Joint, { destination: table }: Tables): Joint[] {
    const { known, said, owner, alive } = joint;
    const recovering = joint.destination === 'recovering';
    const taken: Partial<Record<DestinationOwnershipEvent, Partial<Joint> | false>> = {
      ready: said.includes(`switchover ${known}`) && { said: [...said, `ready ${known}`] },
      back: said.includes(`back ${known}`) && { known: known + 1 },
      go: said.includes(`go ${known}`) && {},
      granted: (owner === 'destination' || (recovering && alive === 'destination')) && { said: [...said, 'running'] },
      denied: (owner === 'source' || recovering) && {},
      released: said.includes('released') && {},
    };
    const events = Object.entries(table.transitions[joint.destination]) as [
      DestinationOwnershipEvent,
      DestinationOwnershipState,
    ][];
    const back = joint.destination === 'receiving' && taken.back ? [{ ...joint, ...taken.back }] : [];
    return events
      .flatMap(([event, destination]) => {
        const change = taken[event] ?? {};
        return change === false ? [] : [{ ...joint, ...change, destination } as Joint];
      })
      .concat(back);
  }

  function authoritySteps(joint: Joint): Joint[] {
    const { asked, owner, refused, destination } = joint;
    const next: Joint[] = [];
    if (asked && !refused) next.push({ ...joint, asked: false, owner: 'destination' });
    if (owner === 'source' && joint.source === 'transferring') next.push({ ...joint, refused: true });
    // Its operator gives the guest back, having seen there that the destination has not been granted it.
    if (owner === 'destination' && !DESTINATION_OWNERSHIP.states[destination].mayRunGuest) {
      next.push({ ...joint, owner: 'source', refused: true, asked: false });
    }
    return next;
  }

  function nexts(joint: Joint, tables: Tables): Joint[] {
    const next = authoritySteps(joint);
    if (joint.alive !== 'destination') next.push(...sourceSteps(joint, tables));
    if (joint.alive !== 'source') next.push(...destinationSteps(joint, tables));
    if (joint.alive === 'both') next.push({ ...joint, alive: 'source' }, { ...joint, alive: 'destination' });
    return next.map((one) => ({ ...one, said: [...new Set(one.said)].sort() }));
  }

  /** Everything that can come to be, with the joint state from which it was reached. */
  function walk(tables: Tables = TABLES): { readonly joint: Joint; readonly from: Joint | undefined }[] {
    const seen = new Map([[JSON.stringify(FIRST), { joint: FIRST, from: undefined as Joint | undefined }]]);
    for (const { joint } of seen.values()) {
      for (const next of nexts(joint, tables)) {
        const key = JSON.stringify(next);
        if (!seen.has(key)) seen.set(key, { joint: next, from: joint });
      }
    }
    return [...seen.values()];
  }

  function bothRun({ source, destination, alive }: Joint): boolean {
    return (
      alive === 'both' &&
      SOURCE_OWNERSHIP.states[source].mayRunGuest &&
      DESTINATION_OWNERSHIP.states[destination].mayRunGuest
    );
  }

  const all = walk();

  test('never do both live in a state that may run the guest', () => {
    expect(all.length).toBeGreaterThan(1000);
    expect(all.filter(({ joint }) => bothRun(joint))).toEqual([]);
  });

  test('the source runs the guest again after "go" only when the destination is dead, or the authority has given it back', () => {
    const after = all.filter(
      ({ joint: { said, source } }) =>
        said.some((what) => what.startsWith('go ')) && SOURCE_OWNERSHIP.states[source].mayRunGuest,
    );
    expect(after.length).toBeGreaterThan(10);
    for (const { joint } of after) {
      expect(joint.source).toBe('recovered');
      expect([joint.owner, joint.refused]).toEqual(['source', true]);
    }
  });

  test('a "go" that is taken is of the attempt that is loaded, and the source has not gone back from it', () => {
    const taken = all.filter(({ joint, from }) => joint.destination === 'asking' && from?.destination === 'ready');
    expect(taken.length).toBeGreaterThan(10);
    expect(new Set(taken.map(({ joint }) => joint.known))).toEqual(new Set([1, 2, 3]));
    for (const { joint } of taken) {
      expect(joint.known).toBe(joint.attempt);
      expect(joint.said).not.toContain(`back ${joint.known}`);
    }
  });

  test('of an attempt, the source has gone back or said "go", never both', () => {
    for (const { joint } of all) {
      for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
        const both = joint.said.includes(`back ${attempt}`) && joint.said.includes(`go ${attempt}`);
        expect(both).toBe(false);
      }
    }
  });

  test('once the transfer is asked for, the destination has everything', () => {
    const given: readonly SourceOwnershipState[] = ['transferring', 'handedOver', 'unknown', 'released'];
    const asked = all.filter(({ joint }) => given.includes(joint.source));
    expect(asked.length).toBeGreaterThan(100);
    expect(asked.filter(({ joint }) => joint.destination === 'receiving')).toEqual([]);
  });

  test('the destination never takes part in a later attempt than the source', () => {
    expect(all.filter(({ joint }) => joint.known > joint.attempt)).toEqual([]);
  });

  test('each pair of the states below is met', () => {
    const met = new Set(all.map(({ joint }) => `${joint.source} ${joint.destination}`));
    for (const pair of [
      'running ready',
      'paused ready',
      'transferring ready',
      'transferring recovered',
      'handedOver asking',
      'unknown asking',
      'unknown recovering',
      'released settled',
      'released recovered',
      'handedOver untold',
      'unknown stranded',
      'unknown abandoned',
      'recovered stranded',
      'recovered ready',
      'kept abandoned',
      'kept ready',
    ]) {
      expect(met).toContain(pair);
    }
  });

  /** What the tables do not have, and why. */
  test.each([
    { role: 'source', from: 'transferring', event: 'back', to: 'running' },
    { role: 'source', from: 'transferring', event: 'fail', to: 'kept' },
    { role: 'source', from: 'handedOver', event: 'back', to: 'running' },
    { role: 'source', from: 'handedOver', event: 'fail', to: 'kept' },
    { role: 'source', from: 'handedOver', event: 'giveUp', to: 'recovered' },
    { role: 'source', from: 'unknown', event: 'fail', to: 'kept' },
    { role: 'destination', from: 'receiving', event: 'giveUp', to: 'running' },
    { role: 'destination', from: 'ready', event: 'giveUp', to: 'running' },
    { role: 'destination', from: 'ready', event: 'recover', to: 'recovered' },
    { role: 'destination', from: 'ready', event: 'go', to: 'running' },
    { role: 'destination', from: 'asking', event: 'denied', to: 'running' },
    { role: 'destination', from: 'recovering', event: 'denied', to: 'recovered' },
  ] as const)('with "$event" from "$from" to "$to" at the $role both would run it', ({ role, from, event, to }) => {
    const table = TABLES[role] as OwnershipTable<string, string>;
    const row = { ...table.transitions[from], [event]: to };
    const wrong = { ...table, transitions: { ...table.transitions, [from]: row } };
    expect(walk({ ...TABLES, [role]: wrong }).some(({ joint }) => bothRun(joint))).toBe(true);
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
