import { claimOf, type MigrationEvent } from '@godwit/core';
import { ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, start, type Toy, type ToyOptions } from './toy-migration.js';

/** A migration whose guest takes `resumeMs` to start at the destination; nothing else takes time. */
async function moved(resumeMs: number, options: ToyOptions = {}) {
  const destination = new ToyVm(BLOCKS, { running: false });
  const toy: Toy = start({ destination, ...options });
  destination.onResume = () => toy.clock.sleep(resumeMs);
  expectMoved(toy, await toy.settled());
  return { toy, summary: await toy.migration.result };
}

const exceeded = ({ events }: Toy) =>
  events.flatMap((event: MigrationEvent) => (event.type === 'downtime-exceeded' ? [event] : []));

describe('a downtime', () => {
  test('beyond the limit is told, with the term that is to blame', async () => {
    const { toy, summary } = await moved(400, { migrate: { downtimeLimitMs: 300 } });
    expect(summary.downtimeMs).toBe(400);
    expect(exceeded(toy)).toEqual([{ type: 'downtime-exceeded', limitMs: 300, downtimeMs: 400, term: 'resumeMs' }]);
  });

  test('of just the limit is within it', async () => {
    const { toy, summary } = await moved(300, { migrate: { downtimeLimitMs: 300 } });
    expect([summary.downtimeMs, exceeded(toy)]).toEqual([300, []]);
  });

  test('is the sum of its terms, round trips among them', async () => {
    const { summary } = await moved(40, { link: { latencyMs: 10 } });
    const terms = Object.values(summary.downtime).map(({ actualMs }) => actualMs);
    expect(terms.reduce((sum, ms) => sum + ms, 0)).toBeCloseTo(summary.downtimeMs, 6);
    expect(summary.downtime.roundTripMs.actualMs).toBeGreaterThanOrEqual(20);
  });
});

test('the summary counts every byte once: those of rounds, and those of none', async () => {
  const { summary } = await moved(0, { migrate: { verify: true } });
  const { pages, rounds, wireBytes, outsideRoundsBytes, rawBytes } = summary;
  expect(rawBytes).toBe(4096 * Object.values(pages).reduce((sum, count) => sum + count, 0));
  expect(outsideRoundsBytes).toBeGreaterThan(0);
  expect(rounds.reduce((sum, round) => sum + round.wireBytes, 0) + outsideRoundsBytes).toBe(wireBytes);
});

test('the VM is handed over then: only reclaim() makes it free', async () => {
  const { toy } = await moved(0);
  expect(claimOf(toy.source)).toMatchObject({ state: 'handedOver', migrationId: toy.migration.id });
});
