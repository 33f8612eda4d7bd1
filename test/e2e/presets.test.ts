import { type MigrateOptions, type MigrationEvent, migrate, type PresetName, receive } from '@godwit/core';
import type { VirtualMachine } from '@godwit/example-node-vmm';
import { connectTo, listenOn, memory } from '@godwit/transport';
import { limited } from '@godwit/transport/testing';
import { expect, jest, test } from '@jest/globals';
import { LiveGuest } from '../guest/live-guest.js';

jest.setTimeout(120_000);

const MIB = 2 ** 20;

/**
 * A guest that writes 24 MiB over and over, as fast as it can: under a plain downtime limit, it never moves over a link of a
 * few MiB a second.
 */
const RESTLESS = { memoryBytes: 64 * MIB, vcpus: 2, workload: { workingSetBytes: 24 * MIB } };

/** The results of a migration under a preset, at both ends. */
async function under(guest: LiveGuest, policy: PresetName, bytesPerSecond: number, more: MigrateOptions) {
  const source = guest.machine;
  const transport = memory();
  const links = await listenOn(transport);
  const events: MigrationEvent[] = [];
  const made: VirtualMachine[] = [];
  try {
    const arrival = receive(links, {
      prepare: async (description) => {
        const machine = await guest.blank(description);
        made.push(machine);
        return machine;
      },
    });
    const migration = migrate(source, connectTo(limited(transport, bytesPerSecond)), {
      description: source.description,
      policy,
      ...more,
    });
    migration.subscribe({ next: (event) => events.push(event), error: () => {} });
    const [sent, received] = await Promise.allSettled([migration.result, arrival.result]);
    const throttles = events.flatMap((event) => (event.type === 'throttle' ? [event.fraction] : []));
    return { sent, received, throttles, arrived: made[0] as VirtualMachine };
  } finally {
    await links.close();
  }
}

test('gentle holds nothing back, and gives up at the end of the budget with what would have done', async () => {
  const guest = await LiveGuest.boot(RESTLESS);
  try {
    const { sent, throttles, arrived } = await under(guest, 'gentle', 8 * MIB, {
      timeBudgetMs: 5000,
      downtimeLimitMs: 100,
    });
    expect(sent).toMatchObject({ reason: { code: 'GODWIT_NOT_CONVERGING' } });
    const { message } = (sent as PromiseRejectedResult).reason as Error;
    expect(message).toMatch(
      /the time budget of 5000 ms is used up; .*a downtimeLimitMs of \d+ would have sufficed \(100 was given\)/,
    );
    expect(throttles).toEqual([]);
    expect(arrived.state).toBe('closed');
    expect(await guest.examine()).toEqual([]);
    expect((guest.machine as VirtualMachine).heldMs().every((ms) => ms === 0)).toBe(true);
  } finally {
    await guest.close();
  }
});

test('balanced holds the guest back by at most 80 %, and moves it within the limit or says that this was not enough', async () => {
  const guest = await LiveGuest.boot(RESTLESS);
  try {
    const { sent, throttles, arrived } = await under(guest, 'balanced', 16 * MIB, {
      timeBudgetMs: 20_000,
      downtimeLimitMs: 200,
    });
    expect(Math.max(...throttles)).toBeGreaterThan(0);
    expect(Math.max(...throttles)).toBeLessThanOrEqual(0.8);
    expect(throttles.at(-1)).toBe(0);
    // Whether the migration succeeds depends on how fast this machine runs the guest.
    if (sent.status === 'fulfilled') await guest.moved(arrived);
    else {
      expect(sent.reason).toMatchObject({ code: 'GODWIT_NOT_CONVERGING' });
      expect((sent.reason as Error).message).toMatch(
        /(held back by \d+ % for \d+ rounds|time budget of 20000 ms is used up).*a downtimeLimitMs of \d+ would have sufficed/,
      );
      expect(arrived.state).toBe('closed');
    }
    expect(await guest.examine()).toEqual([]);
    const held = guest.machine.heldMs();
    expect(await guest.examine()).toEqual([]);
    expect(guest.machine.heldMs()).toEqual(held);
  } finally {
    await guest.close();
  }
});

test('urgent moves the guest, whatever it takes', async () => {
  const guest = await LiveGuest.boot({ ...RESTLESS, workload: { workingSetBytes: 48 * MIB } });
  try {
    const { sent, arrived } = await under(guest, 'urgent', 16 * MIB, { timeBudgetMs: 8000, downtimeLimitMs: 20 });
    expect(sent.status).toBe('fulfilled');
    await guest.moved(arrived);
    expect(await guest.examine()).toEqual([]);
  } finally {
    await guest.close();
  }
});
