import { roundCap } from '@godwit/core';
import { ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { expectMoved, filledVm, PAGE, start, type Toy } from './toy-migration.js';

const BIG = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2048 * PAGE }];

function full(): ToyVm {
  const vm = new ToyVm(BIG);
  vm.write(0, 0, new Uint8Array(2048 * PAGE).fill(1));
  return vm;
}

describe('adjust', () => {
  test('a new downtime limit decides the next round', async () => {
    const source = filledVm();
    const toy: Toy = start({
      source,
      migrate: { downtimeLimitMs: 0 },
      link: {
        fromSource: (frame, payload) => {
          if (source.running) source.write(0, PAGE, Uint8Array.of(1));
          if (frame.type === 'roundEnd' && frame.round === 7) toy.migration.adjust({ downtimeLimitMs: 300 });
          return { frame, payload };
        },
      },
    });
    const ends = await toy.settled();
    expectMoved(toy, ends);
    const records = ends.sent.status === 'fulfilled' ? ends.sent.value.rounds : [];
    expect(records.map(({ decision }) => decision.action).slice(0, 8)).toEqual([
      ...Array(6).fill('continue'),
      'switchover',
      'switchover',
    ]);
  });

  test('a new bandwidth limit is felt at once', async () => {
    const toy = start({
      source: full(),
      destination: new ToyVm(BIG, { running: false }),
      migrate: { bandwidthLimit: 1000 },
    });
    void toy.clock.sleep(10_000).then(() => toy.migration.adjust({ bandwidthLimit: 0 }));
    const ends = await toy.settled();
    expectMoved(toy, ends);
    expect(ends.sent).toMatchObject({ value: { totalMs: expect.any(Number) } });
    expect(toy.clock.now()).toBeLessThan(10_200);
  });

  test('nonsense is refused, and changes nothing', async () => {
    const toy = start({ migrate: { policy: roundCap(1, 'switchover') } });
    for (const bandwidthLimit of [-1, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => toy.migration.adjust({ downtimeLimitMs: 1, bandwidthLimit })).toThrow(
        expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }),
      );
    }
    expectMoved(toy, await toy.settled());
  });

  test('a misspelt option is refused, of switchOver() too', async () => {
    const toy = start({ migrate: { policy: roundCap(1, 'switchover') } });
    const misspelt = [
      [() => toy.migration.adjust({ downtimelimitMs: 5 } as never), 'adjust has no option "downtimelimitMs"'],
      [() => toy.migration.switchOver({ forced: true } as never), 'switchOver has no option "forced"'],
      [() => toy.migration.switchOver({ force: 'yes' as never }), "force must be true or false, got 'yes', a string"],
    ] as const;
    for (const [call, message] of misspelt) {
      expect(call).toThrow(
        expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT', message: expect.stringContaining(message) }),
      );
    }
    expectMoved(toy, await toy.settled());
  });
});
