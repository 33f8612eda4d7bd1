import type { Progress } from '@godwit/core';
import { ToyFaultService, ToyVm } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { expectMoved, PAGE, start } from './toy-migration.js';

const PAGES = 512;
const BLOCKS = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }];

test.each([0, 1])(
  'the bandwidth limit counts no page that is waited for, and each of them as sent (pageChannels: %d)',
  async (pageChannels) => {
    const source = new ToyVm(BLOCKS);
    source.onPause = () => {
      for (let page = 0; page < PAGES; page++)
        source.deviceWrite(0, page * PAGE, new Uint8Array(PAGE).fill(1 + (page % 255)));
    };
    const destination = new ToyVm(BLOCKS, { running: false });
    const faults = new ToyFaultService();
    let guest: Promise<Progress> | undefined;
    destination.onResume = () => {
      guest = Promise.resolve().then(async () => {
        for (let page = 0; page < PAGES; page++) await faults.served[0]?.touch(0, page);
        return toy.migration.status().progress;
      });
    };
    // All of the memory would take 32 s.
    const postcopyBandwidth = (PAGES * PAGE) / 32;
    const toy = start({
      ...{ source, destination },
      link: { bytesPerSecond: 100 * 2 ** 20 },
      migrate: { postcopy: true, postcopyBandwidth, pageChannels },
      receive: { faults },
    });
    toy.migration.startPostcopy();
    const ends = await toy.settled();
    expectMoved(toy, ends);
    const { state, roundPages, roundPagesSent } = await (guest as unknown as Promise<Progress>);
    // The first page is asked for before the source begins with the others.
    expect({ state, roundPages }).toEqual({ state: 'postcopy-active', roundPages: PAGES - 1 });
    expect(roundPagesSent).toBe(roundPages);
    const { postcopy } = await toy.migration.result;
    expect(postcopy?.pages).toBe(PAGES);
    // By a virtual clock: one write is paid for, and then the source sees that nothing is owed.
    expect(postcopy?.ms).toBeLessThan(4000);
  },
);
