import type { DeviceFrame, LinkConnector, MigratableDevice, PageStream } from '@godwit/core';
import { memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { begin, big, MB } from './big-device.js';
import { BLOCKS, expectMoved, filledVm, start, switchAfter } from './toy-migration.js';

/** Device state over several streams: pieces that overtake others, or come too late. */

const of = (frame: DeviceFrame, attempt: number) => frame.attempt === attempt;

/** Holds frames of one page channel back, as a slow stream does: what is written later on others overtakes them. */
function slowChannel(link: LinkConnector, slow: (frame: DeviceFrame) => Promise<void> | undefined): LinkConnector {
  return {
    ...link,
    async connect(request, signal) {
      const made = await link.connect(request, signal);
      const [first, ...others] = made.pageChannels as [PageStream, ...PageStream[]];
      const write = first.write.bind(first);
      let before: Promise<unknown> = Promise.resolve();
      first.write = (frame, payload) => {
        const wait = frame.type === 'device' ? slow(frame) : undefined;
        // It has taken the piece, as a socket does, and delivers it later; what follows on it waits.
        const copy = payload?.map((part) => part.slice());
        if (wait !== undefined) before = before.then(() => wait);
        const going = before.then(() => write(frame, wait === undefined ? payload : copy));
        going.catch(() => {});
        return wait === undefined ? going : Promise.resolve();
      };
      return { ...made, pageChannels: [first, ...others] };
    },
  };
}

function gate() {
  let open: () => void = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open: () => open() };
}

test('`switchover` overtakes a piece of pre-copy, and one of its attempt: nothing is loaded before they have come', async () => {
  for (const attempt of [0, 1]) {
    const clock = new VirtualClock();
    const gpu = big(clock, { megabytes: 8, live: 4 });
    const late = gate();
    const link = memoryLink({ clock });
    let ready = false;
    const { toy } = begin(clock, [gpu], {
      connector: slowChannel(link.connector, (frame) => (of(frame, attempt) ? late.opened : undefined)),
      listener: link.listener,
      migrate: { pageChannels: 2, force: true, policy: switchAfter(1) },
    });
    toy.migration.subscribe((event) => {
      ready ||= event.type === 'state' && event.state === 'settling';
    });
    void clock.sleep(5000).then(() => {
      expect([attempt, ready]).toEqual([attempt, false]);
      late.open();
    });
    expectMoved(toy, await toy.settled());
    expect([gpu.seen.bytes, gpu.seen.wrong, gpu.seen.loads]).toEqual([8 * MB + 4, 0, 1]);
    expect(clock.now()).toBeGreaterThanOrEqual(5000);
  }
});

test('pieces of an attempt that was given up come after `back`, on a slow page channel: they are thrown away', async () => {
  const clock = new VirtualClock();
  const gpu = big(clock, { megabytes: 20 });
  const late = gate();
  const link = memoryLink({ clock });
  let saves = 0;
  const hung: MigratableDevice = {
    id: 'late',
    version: 1,
    async *save() {
      // The first attempt hangs until its bound is passed.
      if (++saves === 1) await clock.sleep(3000);
      yield Uint8Array.of(saves);
    },
    load: async () => {},
  };
  const lateSeen: number[] = [];
  const source = filledVm();
  source.devices = [gpu.source, hung];
  const toy = start({
    clock,
    source,
    destination: new ToyVm(BLOCKS, {
      running: false,
      devices: [
        gpu.destination,
        { ...hung, load: async (state) => void (await eachOf(state, (part) => void lateSeen.push(...part))) },
      ],
    }),
    connector: slowChannel(link.connector, (frame) => (of(frame, 1) ? late.opened : undefined)),
    listener: link.listener,
    migrate: { pageChannels: 2, policy: switchAfter(1), pauseLimitMs: 1000 },
  });
  let wentBack = 0;
  toy.incoming.subscribe((event) => {
    if (event.type !== 'went-back') return;
    wentBack++;
    late.open();
  });
  expectMoved(toy, await toy.settled());
  expect([wentBack, gpu.seen.bytes, gpu.seen.wrong, gpu.seen.loads]).toEqual([1, 20 * MB + 4, 0, 1]);
  expect(lateSeen).toEqual([2]);
});

async function eachOf(state: AsyncIterable<Uint8Array>, take: (part: Uint8Array) => void): Promise<void> {
  for await (const part of state) take(part);
}
