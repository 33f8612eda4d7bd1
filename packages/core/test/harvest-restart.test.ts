import { receive } from '@godwit/core';
import { memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { BLOCKS, filledVm, PAGE, start } from './toy-migration.js';

test('what a harvest that hangs takes is sent to a destination that was restarted meanwhile', async () => {
  const clock = new VirtualClock();
  const source = filledVm();
  const { software } = source;
  let harvests = 0;
  source.trackers = [
    {
      name: 'slow',
      start: () => software.start(),
      stop: () => software.stop(),
      harvest: async (into) => {
        // The second one, with the guest paused, passes the bound by far: it takes bits when the guest has long gone on.
        if (++harvests === 2) await clock.sleep(3000);
        await software.harvest(into);
      },
    },
  ];
  const first = memoryLink({ clock, latencyMs: 1 });
  const second = memoryLink({ clock, latencyMs: 1 });
  let there = first;
  const toy = start({
    clock,
    source,
    destination: new ToyVm(BLOCKS, { running: false }),
    listener: second.listener,
    connector: { connect: (request, signal) => there.connector.connect(request, signal) },
    migrate: { pauseLimitMs: 100, reconnectTimeoutMs: 8000 },
  });
  const died = receive(first.listener, {
    prepare: () => new ToyVm(BLOCKS, { running: false }),
    clock,
    reconnectTimeoutMs: 0,
  });
  died.result.catch(() => {});
  toy.migration.subscribe((event) => {
    if (event.type !== 'went-back' || there === second) return;
    there = second;
    first.cut();
  });
  // While round 1 goes to the second destination, and before the harvest takes what is dirty.
  void clock.sleep(2000).then(() => source.write(0, 3 * PAGE, Uint8Array.of(77)));
  const { code } = await toy.settled();
  expect([code, toy.events.filter(({ type }) => type === 'reconnected')]).toEqual([
    undefined,
    [expect.objectContaining({ restarted: true })],
  ]);
  expect(harvests).toBeGreaterThan(2);
  expect(source.memory.firstDifference(toy.destination.memory)).toBeUndefined();
  expect(toy.destination.memory.blocks[0]?.bytes[3 * PAGE]).toBe(77);
});
