import { ToyVm } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { expectMoved, PAGE, start } from './toy-migration.js';

const PAGES = 2048;
const RAM = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }];

/** A guest in which no page is zero. */
function full(): ToyVm {
  const vm = new ToyVm(RAM);
  vm.write(0, 0, new Uint8Array(PAGES * PAGE).fill(7));
  return vm;
}

test.each([1, 20, 100])(
  'from the first page on, the rate is that of pages and not of greetings: %d ms away',
  async (latencyMs) => {
    const toy = start({
      source: full(),
      destination: new ToyVm(RAM, { running: false }),
      link: { bytesPerSecond: 1e9, latencyMs },
      // After the first batch the limit makes the second one wait.
      migrate: { bandwidthLimit: 4e6, progressIntervalMs: 1 },
    });
    expectMoved(toy, await toy.settled());
    const rates = toy.events.flatMap((event) =>
      event.type === 'progress' && event.progress.round === 1 && event.progress.rawBytes > 0
        ? [event.progress.wireBytesPerSecond]
        : [],
    );
    expect(rates.length).toBeGreaterThan(3);
    expect(Math.min(...rates)).toBeGreaterThan(40_000);
  },
);
