import { type ConvergencePolicy, type PolicyInput, type PresetName, presets } from '@godwit/core';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { isForced, type Outcome, play, type World } from './round-oracle.js';
import { random } from './toy-migration.js';

const NAMES = Object.keys(presets) as PresetName[];
/** Those that a person chooses, and that go by the engine's prediction; `qemu` has its own idea of the limit. */
const BY_PREDICTION = NAMES.filter((name) => name !== 'qemu');

interface Wish {
  readonly noise: number;
  /** Whether a user has set a budget. */
  readonly budget?: boolean;
}

/** Guests and links of all kinds: from calm to hopeless, with working sets of any part of RAM. */
function worlds({ noise, budget = true }: Wish): fc.Arbitrary<World> {
  return fc
    .record({
      link: fc.double({ min: 3, max: 6, noNaN: true }).map((exponent) => Math.round(10 ** exponent)),
      roundS: fc.double({ min: -0.3, max: 1.5, noNaN: true }).map((exponent) => 10 ** exponent),
      set: fc.double({ min: -2, max: 0, noNaN: true }).map((exponent) => 10 ** exponent),
      writes: fc.double({ min: -1, max: 1.5, noNaN: true }).map((exponent) => 10 ** exponent),
      order: fc.constantFrom('random' as const, 'sweep' as const),
      limitMs: fc.integer({ min: 30, max: 1000 }),
      fixedMs: fc.integer({ min: 5, max: 60 }),
      besideMs: fc.integer({ min: 1, max: 80 }),
      rounds: fc.double({ min: 1, max: 15, noNaN: true }),
      canThrottle: fc.boolean(),
      canPostcopy: fc.boolean(),
      phase: fc.option(fc.integer({ min: 500, max: 20_000 }), { nil: undefined }),
      seed: fc.integer(),
    })
    .map(({ link, roundS, set, writes, rounds, phase, seed, ...rest }) => {
      const pages = Math.max(10, Math.round(link * roundS));
      const speed = Math.round(link * writes);
      const next = random(seed);
      return {
        ...rest,
        link,
        pages,
        workingSet: Math.max(1, Math.round(pages * set)),
        writes: phase === undefined ? speed : (ms: number) => (Math.floor(ms / phase) % 2 === 0 ? speed : speed / 10),
        noise,
        random: () => next() / 2 ** 32,
        ...(budget && { budgetMs: Math.round(roundS * 1000 * rounds + 2000) }),
      };
    });
}

/** The same world with a guest that writes at one rate, and that can be held back. */
const steady = (world: World): World => ({
  ...world,
  canThrottle: true,
  canPostcopy: false,
  writes: typeof world.writes === 'number' ? world.writes : world.writes(0),
});

function frozen<Value>(value: Value): Value {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const part of Object.values(value)) frozen(part);
  }
  return value;
}

/** A policy that is checked to be pure each time it is asked. */
function pure(policy: ConvergencePolicy): ConvergencePolicy {
  return (input) => {
    const decision = policy(input);
    expect(policy(frozen(structuredClone(input)))).toEqual(decision);
    return decision;
  };
}

describe.each(NAMES)('%s', (name) => {
  const policy = presets[name];

  test('with a budget it comes to an end in time, and its answers are those of a pure function', () => {
    fc.assert(
      fc.property(worlds({ noise: 0.05 }), fc.boolean(), (world, unprepared) => {
        const { end, atMs } = play(
          { ...world, unprepared, pages: Math.min(world.pages, 20 * world.link) },
          pure(policy),
        );
        expect(end).not.toBe('never');
        expect(atMs).toBeLessThanOrEqual((world.budgetMs as number) + 200);
      }),
      { numRuns: 12 },
    );
  });

  test.each([3, 4])(
    'after %i switchovers that were given up it asks for no further one within the limit',
    (overruns) => {
      play({ ...BUSY, writes: 1000 }, (input) => {
        const decision = policy({ ...input, overruns });
        if (decision?.action === 'switchover' && name !== 'qemu') expect(isForced(decision)).toBe(true);
        return policy(input);
      });
    },
  );
});

const BUSY: World = {
  pages: 50_000,
  link: 10_000,
  writes: 30_000,
  workingSet: 10_000,
  order: 'random',
  budgetMs: 60_000,
};

test.each(BY_PREDICTION)(
  '%s never switches over above the limit that it names, unless by force or with nothing dirty',
  (name) => {
    fc.assert(
      fc.property(worlds({ noise: 0.05 }), (world) => {
        const { decision, last } = play(world, presets[name]);
        if (decision?.action !== 'switchover' || isForced(decision) || last === undefined) return;
        const limitMs = decision.downtimeLimitMs ?? last.downtimeLimitMs;
        const { predictedDowntimeMs, newlyDirtyPages } = last.outcome;
        if (newlyDirtyPages === 0 && name !== 'gentle') return;
        expect(predictedDowntimeMs).toBeLessThanOrEqual(limitMs);
        const raised =
          { gentle: 0, balanced: 0, urgent: 0, hybrid: 0, vep248: 900, vep291: 1050 }[name as string] ?? Number.NaN;
        expect(limitMs).toBeLessThanOrEqual(Math.max(last.downtimeLimitMs, raised));
      }),
      { numRuns: 100 },
    );
  },
);

test('without a budget of the user, the presets that a person chooses end by their own', () => {
  for (const name of ['gentle', 'balanced', 'urgent', 'vep248', 'vep291'] as const) {
    fc.assert(
      fc.property(worlds({ noise: 0.02, budget: false }), (world) => {
        const { end, atMs, rounds } = play({ ...world, pages: Math.min(world.pages, 10 * world.link) }, presets[name]);
        expect(end).not.toBe('never');
        const first = rounds[0]?.totalMs ?? 0;
        const least = { gentle: 60_000, balanced: 60_000, urgent: 30_000 }[name as string];
        if (least !== undefined) expect(atMs).toBeLessThanOrEqual(Math.max(least, 10 * first) + 200);
      }),
      { numRuns: 8 },
    );
  }
});

test('gentle never holds a guest back, and no preset does where the VM cannot', () => {
  fc.assert(
    fc.property(worlds({ noise: 0.05 }), fc.constantFrom(...NAMES), (world, name) => {
      const can = name !== 'gentle' && world.canThrottle === true;
      expect(play(world, presets[name]).throttled.length === 0 || can).toBe(true);
    }),
    { numRuns: 100 },
  );
});

test.each(['balanced', 'urgent'] as const)(
  '%s: the throttle is never above what is needed by more than 10 points',
  (name) => {
    fc.assert(
      fc.property(
        fc.constantFrom(0, 0.02).chain((noise) => worlds({ noise })),
        (world) => {
          for (const { fraction, needed } of play(steady(world), presets[name], true).throttled) {
            expect(fraction - needed).toBeLessThanOrEqual(0.1);
            expect(fraction).toBeLessThanOrEqual(name === 'balanced' ? 0.8 : 0.99);
          }
        },
      ),
      { numRuns: 100 },
    );
  },
);

describe('the throttle does not flap', () => {
  test.each(['balanced', 'urgent'] as const)('%s: a steady guest sees few turns', (name) => {
    fc.assert(
      fc.property(worlds({ noise: 0.02 }), (world) => {
        const { throttled } = play(steady(world), presets[name]);
        const turns = throttled.filter(({ fraction }, i) => {
          const [one, two] = [throttled[i - 1]?.fraction, throttled[i - 2]?.fraction];
          return one !== undefined && two !== undefined && (fraction - one) * (one - two) < 0;
        });
        expect(turns.length).toBeLessThanOrEqual(2);
      }),
      { numRuns: 60 },
    );
  });

  test.each(NAMES)('%s: asked the same again and again, it settles', (name) => {
    fc.assert(
      fc.property(worlds({ noise: 0.05 }), fc.nat(20), (world, until) => {
        const inputs: PolicyInput[] = [];
        play(steady(world), (input) => {
          if (input.moment === 'round-end') inputs.push(input);
          return presets[name](input);
        });
        let input = inputs[Math.min(until, inputs.length - 1)] as PolicyInput;
        const seen: number[] = [];
        for (let i = 0; i < 5; i++) {
          const decision = presets[name](input);
          if (decision?.action !== 'throttle') return;
          seen.push(decision.fraction);
          input = { ...input, throttle: decision.fraction };
        }
        expect(seen).toEqual([seen[0]]);
      }),
      { numRuns: 60 },
    );
  });
});

describe('a guest that only a throttle brings over', () => {
  const kinds: [string, Partial<World>][] = [
    ['a working set that is written whole', {}],
    ['a sweep', { order: 'sweep' }],
    ['twice the link, over much memory', { pages: 200_000, workingSet: 2_000_000, writes: 20_000, budgetMs: 300_000 }],
  ];

  test.each(kinds)('%s', (_, change) => {
    const world = { ...BUSY, ...change };
    const ends = (name: PresetName): Outcome['end'] => play(world, presets[name]).end;
    expect([ends('gentle'), ends('qemu'), ends('balanced'), ends('urgent')]).toEqual([
      'abort',
      'abort',
      'switchover',
      'switchover',
    ]);
    expect(play({ ...world, canThrottle: false }, presets.balanced).end).toBe('abort');
    expect(play({ ...world, canThrottle: false, canPostcopy: true }, presets.balanced).end).toBe('postcopy');
    const forced = play({ ...world, canThrottle: false }, presets.urgent);
    expect(forced.end).toBe('force');
    const budgetMs = world.budgetMs as number;
    expect(forced.atMs).toBeLessThanOrEqual(budgetMs);
    // A downtime of more than a quarter of the budget cannot be made up for by a guest that is paused even earlier.
    if (forced.downtimeMs < budgetMs / 4) expect(forced.atMs + forced.downtimeMs).toBeLessThanOrEqual(budgetMs + 1000);
  });

  test('is let go faster once it has calmed down', () => {
    const writes = (ms: number) => (ms < 30_000 ? 15_000 : 9000);
    const world: World = { ...BUSY, writes, workingSet: 500_000, pages: 30_000, budgetMs: 300_000 };
    const { throttled, end } = play(world, presets.balanced);
    expect(end).toBe('switchover');
    const most = Math.max(...throttled.map(({ fraction }) => fraction));
    expect(most).toBeGreaterThan(0.3);
    expect(throttled.at(-1)?.fraction).toBeLessThan(most - 0.1);
  });

  test('which no throttle that is allowed would help is given up early, and not held back until the end', () => {
    const { end, decision, atMs } = play({ ...BUSY, writes: 3_000_000, budgetMs: 600_000 }, presets.balanced);
    expect(end).toBe('abort');
    expect(decision?.reason).toMatch(/held back by 80 % for \d+ rounds/);
    expect(atMs).toBeLessThan(60_000);
  });
});
