import { FaultyDevice, ToyVm, VirtualClock } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { Count, CUTS, countListeners, LONG } from './count-listeners.js';
import { BLOCKS, expectMoved, filledVm, start, switchAfter } from './toy-migration.js';

countListeners();

test(`a switchover that is given up ${CUTS} times leaves no listener with the connection, which lasts`, async () => {
  const count = new Count();
  const clock = new VirtualClock();
  const source = filledVm();
  let saves = 0;
  source.devices = [
    Object.assign(new FaultyDevice('uart'), {
      async *save(signal?: AbortSignal) {
        if (++saves <= CUTS) await clock.sleep(600_000, signal);
        yield Uint8Array.of(1);
      },
    }),
  ];
  const toy = start({
    ...{ clock, source, destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart')] }) },
    migrate: { ...LONG, pauseLimitMs: 200, policy: switchAfter(1), signal: new AbortController().signal },
    receive: { ...LONG, signal: new AbortController().signal },
  });
  toy.migration.subscribe((event) => {
    if (event.type === 'went-back') count.take();
  });
  expectMoved(toy, await toy.settled());
  expect(count.cuts).toBe(CUTS);
  count.expectConstant();
});
