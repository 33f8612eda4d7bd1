import { type MigrationEvent, migrate, receive } from '@godwit/core';
import { memoryLink, ToyVm } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { expectMoved, start } from './toy-migration.js';

const BLOCKS = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 4 << 20 }];

test('a guest that writes while it is migrated arrives with every byte right', async () => {
  const source = new ToyVm(BLOCKS);
  const destination = new ToyVm(BLOCKS, { running: false });
  for (let page = 0; page < 600; page++) source.write(0, page * 4096, new Uint8Array(4096).fill(page & 255 || 1));
  let frames = 0;
  const { connector, listener } = memoryLink({
    fromSource: (frame, payload) => {
      if (source.running)
        source.write(0, ((frames * 37) % 1000) * 4096 + (frames % 4096), Uint8Array.of(frames++ & 255));
      return { frame, payload };
    },
  });
  const incoming = receive(listener, { prepare: () => destination });
  const migration = migrate(source, connector, { verify: true });
  const events: MigrationEvent[] = [];
  migration.subscribe({ next: (event) => events.push(event), error: () => {} });
  const summary = await migration.result;
  await incoming.result;
  expect(summary.verified).toBe(true);
  expect(source.running).toBe(false);
  expect(destination.running).toBe(true);
  expect(source.memory.firstDifference(destination.memory)).toBeUndefined();
  expect(events.filter((event) => event.type === 'state').map((event) => event.state)).toEqual([
    'setup',
    'active',
    'device',
    'completed',
  ]);
});

test.each([true, false])('both summaries say whether the RAM was compared: %s', async (verify) => {
  const toy = start({ migrate: { verify } });
  const ends = await toy.settled();
  expectMoved(toy, ends);
  expect(ends).toMatchObject({
    sent: { value: { verified: verify } },
    received: { value: { summary: { verified: verify } } },
  });
});
