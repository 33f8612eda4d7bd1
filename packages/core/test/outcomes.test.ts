import { GodwitError } from '@godwit/core';
import { engineParts } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const { MOST_UNTOLD_BYTES, Outcomes } = engineParts;
type Outcome = engineParts.Outcome;

/** As the source counts them: 256 bytes, and two for each character of the reason. */
const ENTRY_BYTES = 256;
const MOST_TOLD = 64;

function outcome(told: boolean, characters = 0): Outcome {
  const reason = characters === 0 ? undefined : new GodwitError('GODWIT_CANCELLED', 'x'.repeat(characters));
  return { state: 'abandoned', reason, told, incarnation: '1'.repeat(32), resumeMs: 0, sinceReadyMs: 0 };
}

/** The ids of those that are remembered, of these. */
const kept = (outcomes: engineParts.Outcomes, ids: readonly string[]) =>
  ids.filter((id) => outcomes.get(id) !== undefined);
const ids = (count: number) => Array.from({ length: count }, (_, i) => `m${i}`);

describe('outcomes of which no source has heard', () => {
  test('are kept as long as they fit, and then the oldest go', () => {
    const outcomes = new Outcomes();
    const fit = MOST_UNTOLD_BYTES / ENTRY_BYTES;
    const all = ids(fit + 2);
    for (const id of all.slice(0, fit)) outcomes.set(id, outcome(false));
    expect(kept(outcomes, all)).toHaveLength(fit);
    outcomes.set(all[fit] as string, outcome(false));
    expect(kept(outcomes, all)).toEqual(all.slice(1, fit + 1));
    outcomes.set(all[fit + 1] as string, outcome(false));
    expect(kept(outcomes, all)).toEqual(all.slice(2));
  });

  test('count with their reason: one long one takes the place of many', () => {
    const outcomes = new Outcomes();
    const characters = 4096;
    const fit = Math.floor(MOST_UNTOLD_BYTES / (ENTRY_BYTES + 2 * characters));
    const all = ids(fit + 1);
    for (const id of all) outcomes.set(id, outcome(false, characters));
    expect(kept(outcomes, all)).toEqual(all.slice(1));
  });

  test('a single one that is too large by itself is not kept, nor counted for ever', () => {
    const outcomes = new Outcomes();
    outcomes.set('large', outcome(false, MOST_UNTOLD_BYTES));
    expect([outcomes.get('large'), outcomes.awaited]).toEqual([undefined, false]);
    outcomes.set('small', outcome(false));
    expect([outcomes.get('small') !== undefined, outcomes.awaited]).toEqual([true, true]);
  });

  test('are no longer awaited once told, deleted or cleared', () => {
    for (const end of ['tell', 'delete', 'clear'] as const) {
      const outcomes = new Outcomes();
      outcomes.set('a', outcome(false, 10));
      expect(outcomes.awaited).toBe(true);
      outcomes[end]('a');
      expect([outcomes.awaited, outcomes.get('a')?.told]).toEqual([false, end === 'tell' ? true : undefined]);
    }
  });
});

describe('outcomes of which the source has heard', () => {
  test('are kept, the latest 64 of them; those that nobody has heard of stay', () => {
    const outcomes = new Outcomes();
    outcomes.set('untold', outcome(false));
    const all = ids(MOST_TOLD + 3);
    for (const id of all) outcomes.set(id, outcome(true, 100_000));
    expect(kept(outcomes, ['untold', ...all])).toEqual(['untold', ...all.slice(3)]);
  });

  test('are all kept as long as there are no more than 64', () => {
    const outcomes = new Outcomes();
    const all = ids(MOST_TOLD);
    for (const id of all) outcomes.set(id, outcome(true));
    expect(kept(outcomes, all)).toEqual(all);
  });

  test('are as new as the moment in which they were told', () => {
    const outcomes = new Outcomes();
    outcomes.set('first', outcome(false));
    const all = ids(MOST_TOLD);
    for (const id of all) outcomes.set(id, outcome(true));
    outcomes.tell('first');
    expect(kept(outcomes, ['first', ...all])).toEqual(['first', ...all.slice(1)]);
  });

  test('telling of one that is not known is nothing', () => {
    const outcomes = new Outcomes();
    outcomes.tell('unknown');
    outcomes.delete('unknown');
    expect([outcomes.get('unknown'), outcomes.awaited]).toEqual([undefined, false]);
  });
});

/** A list, oldest first, from which the oldest of a kind goes while that kind has too much. */
class Naive {
  list: { id: string; outcome: Outcome }[] = [];

  set(id: string, given: Outcome): void {
    this.delete(id);
    this.list.push({ id, outcome: given });
    const of = (told: boolean) => this.list.filter(({ outcome }) => outcome.told === told);
    while (of(true).length > MOST_TOLD) this.delete(of(true)[0]?.id as string);
    while (this.untoldBytes > MOST_UNTOLD_BYTES) this.delete(of(false)[0]?.id as string);
  }

  tell(id: string): void {
    const found = this.list.find((one) => one.id === id);
    if (found !== undefined) this.set(id, { ...found.outcome, told: true });
  }

  delete(id: string): void {
    this.list = this.list.filter((one) => one.id !== id);
  }

  get untoldBytes(): number {
    return this.list.reduce(
      (sum, { outcome }) => sum + (outcome.told ? 0 : ENTRY_BYTES + 2 * (outcome.reason?.message.length ?? 0)),
      0,
    );
  }
}

test('any sequence of calls remembers what a plain list would', () => {
  const id = fc.integer({ min: 0, max: 99 }).map((n) => `m${n}`);
  const call = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.tuple(fc.constant('set' as const), id, fc.boolean(), fc.constantFrom(0, 1, 20_000, 100_000)),
    },
    { weight: 2, arbitrary: fc.tuple(fc.constant('tell' as const), id) },
    { weight: 1, arbitrary: fc.tuple(fc.constant('delete' as const), id) },
  );
  fc.assert(
    fc.property(fc.array(call, { maxLength: 300, size: 'max' }), (calls) => {
      const [outcomes, naive] = [new Outcomes(), new Naive()];
      for (const [what, name, told = false, characters = 0] of calls) {
        for (const one of [outcomes, naive]) {
          if (what === 'set') one.set(name, outcome(told, characters));
          else one[what](name);
        }
        expect(outcomes.awaited).toBe(naive.untoldBytes > 0);
      }
      expect(kept(outcomes, ids(100)).sort()).toEqual(naive.list.map((one) => one.id).sort());
    }),
    { numRuns: 60 },
  );
});
