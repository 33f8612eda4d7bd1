import { setTimeout as sleep } from 'node:timers/promises';
import { migrate } from '@godwit/core';
import { observe, observeIncoming } from '@godwit/observe';
import { msText } from '@godwit/observe/model';
import { describe, expect, test } from '@jest/globals';
import { closingAfterEach } from './close-later.js';
import { ToyMigration } from './toy-migration.js';

const closeLater = closingAfterEach();

describe('a migration that is observed', () => {
  test('has the values of status() in its model, while it runs and at its end', async () => {
    const toy = closeLater(
      new ToyMigration({
        bytesPerSecond: 8 * 2 ** 20,
        migrate: { downtimeLimitMs: 250, bandwidthLimit: 4 * 2 ** 20 },
      }),
    );
    const observation = closeLater(observe(toy.migration, { incoming: toy.incoming }));
    await new Promise<void>((resolve) => {
      toy.migration.subscribe((event) => event.type === 'progress' && event.progress.wireBytes > 0 && resolve());
    });
    const { source } = observation.model();
    // In the same tick nothing has changed but the clock.
    const { progress, state, ownership } = toy.migration.status();
    expect(source?.states.state).toBe(state);
    expect(source?.ownership).toBe(ownership);
    expect(source?.downtimeLimitMs).toBe(250);
    expect(source?.bandwidthLimit).toBe(4 * 2 ** 20);
    const { wireBytes, rawBytes, pages, round, roundPages, roundPagesSent } = progress;
    expect(source?.progress).toMatchObject({ wireBytes, rawBytes, pages, round, roundPages, roundPagesSent });

    const summary = await toy.migration.result;
    await toy.incoming.result;
    await toy.over();
    const model = observation.model();
    expect(model).toMatchObject({ over: true, guest: 'destination', elapsedMs: summary.totalMs });
    expect(model.source?.summary).toMatchObject({
      downtimeMs: summary.downtimeMs,
      wireBytes: summary.wireBytes,
      verified: true,
    });
    expect(model.source?.progress.wireBytes).toBe(toy.migration.status().progress.wireBytes);
    expect(model.rounds.count).toBe(summary.rounds.length);
    expect(model.rounds.kept.map(({ wireBytes: bytes }) => bytes)).toEqual(summary.rounds.map((one) => one.wireBytes));
    for (const { term, predictedMs, actualMs } of model.source?.downtime?.terms ?? []) {
      const expected = summary.downtime[term as keyof typeof summary.downtime];
      expect({ predictedMs, actualMs }).toEqual({ predictedMs: expected.predictedMs, actualMs: expected.actualMs });
    }
    expect(model.destination).toMatchObject({ states: { state: 'completed' }, ownership: 'settled' });
    expect(model.destination?.wireBytes).toBe(toy.incoming.status().wireBytes);
    expect(JSON.parse(JSON.stringify(model))).toEqual(model);
  });

  test('goes on when the observation ends, and does not notice it', async () => {
    const toy = closeLater(new ToyMigration({ bytesPerSecond: 8 * 2 ** 20 }));
    const observation = observe(toy.migration, { incoming: toy.incoming });
    await observation.serve();
    const late = observation.serve();
    await observation.close();
    // A server that was being opened is closed too, and no further one can be opened.
    await expect(late).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
    await expect(observation.serve()).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
    const before = observation.model();
    await toy.migration.result;
    await toy.incoming.result;
    expect(toy.vm.running).toBe(false);
    expect(toy.arrived.running).toBe(true);
    expect(before.over).toBe(false);
    expect(observation.model()).toEqual(before);
  });

  test('may have begun long ago: its time and its state are those of status()', async () => {
    const toy = closeLater(new ToyMigration({ bytesPerSecond: 8 * 2 ** 20 }));
    await sleep(50);
    const { elapsedMs } = toy.migration.status().progress;
    const observation = closeLater(observe(toy.migration));
    const model = observation.model();
    expect(model.elapsedMs).toBeGreaterThanOrEqual(elapsedMs);
    expect(model.source?.states.state).toBe(toy.migration.state);
    expect(model.destination).toBeNull();
    expect(model.guest).toBe('source');
  });

  test('that fails has its error in the model, and the side that has the guest', async () => {
    const toy = closeLater(new ToyMigration({ bytesPerSecond: 8 * 2 ** 20 }));
    const observation = closeLater(observe(toy.migration, { incoming: toy.incoming, title: 'the one that fails' }));
    await sleep(20);
    toy.migration.cancel('no more');
    await toy.over();
    const model = observation.model();
    expect(model).toMatchObject({ title: 'the one that fails', over: true, guest: 'source' });
    expect(model.source).toMatchObject({
      states: { state: 'cancelled' },
      error: { code: 'GODWIT_CANCELLED' },
      ownership: 'kept',
    });
    expect(model.log.entries.at(-1)?.level).toBe('bad');
  });

  test('can be seen from its destination alone', async () => {
    const toy = closeLater(new ToyMigration());
    const observation = closeLater(observeIncoming(toy.incoming));
    await toy.over();
    expect(observation.model()).toMatchObject({
      over: true,
      guest: 'destination',
      source: null,
      destination: { id: toy.migration.id, states: { state: 'completed' }, round: expect.any(Number) },
    });
  });

  test('that never begins is over with its first error', async () => {
    const toy = closeLater(new ToyMigration({ bytesPerSecond: 8 * 2 ** 20 }));
    const second = migrate(toy.vm, toy.link.connector);
    const observation = closeLater(observe(second));
    await second.result.catch(() => {});
    expect(observation.model()).toMatchObject({ over: true, source: { error: { code: 'GODWIT_CLAIMED' } } });
    expect(msText(observation.model().elapsedMs)).toMatch(/ms$/);
  });
});
