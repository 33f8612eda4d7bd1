import type { ConvergencePolicy, Frame, MigrateOptions, ReceiveOptions } from '@godwit/core';
import { FaultyDevice, ManualTracker, type MemoryLinkOptions, ToyFaultService, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { expectMoved, expectStayed, PAGE, start, type Toy } from './toy-migration.js';

const PAGES = 64;
const BLOCKS = [0, 1].map((index) => ({
  id: `ram${index}`,
  guestPhysicalAddress: index * 2 ** 32,
  byteLength: PAGES * PAGE,
}));

const postcopyAtOnce: ConvergencePolicy = () => ({ action: 'postcopy', reason: 'at once' });

interface Moved extends Toy {
  /** What the source has sent since the first page was named, in order; in brackets what it sent with the guest running. */
  readonly said: string[];
}

/**
 * Moves a guest of two blocks by post-copy. It writes page 1 of both while the first round is sent, pages 2 of both as it is paused, and
 * its device writes page 3 of both as it is saved.
 */
function moved(
  { link = {}, migrate = {} }: { readonly link?: MemoryLinkOptions; readonly migrate?: MigrateOptions } = {},
  receive: Partial<ReceiveOptions> = {},
  change: (source: ToyVm, writes: (page: number) => void) => void = () => {},
): Moved {
  const source = new ToyVm(BLOCKS);
  const writes = (page: number) => {
    for (const block of BLOCKS.keys()) source.deviceWrite(block, page * PAGE, new Uint8Array(PAGE).fill(page));
  };
  for (let page = 0; page < PAGES; page += 2) writes(page);
  source.devices = [
    new FaultyDevice('uart', new Uint8Array(100).fill(1), {
      onSave: () => {
        writes(3);
      },
    }),
  ];
  source.onPause = () => writes(2);
  const said: string[] = [];
  const note = (frame: Frame): void => {
    if (frame.type !== 'missing' && said.length === 0) return;
    if (frame.type !== 'missing' && frame.type !== 'device' && frame.type !== 'switchover') return;
    const what = frame.type === 'missing' ? `${frame.block}: ${[...frame.runs].join(' ')}` : frame.type;
    said.push(source.running ? `(${what})` : what);
  };
  let first = true;
  change(source, writes);
  const toy = start({
    source,
    destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart')] }),
    link: {
      ...link,
      fromSource: (frame, payload) => {
        note(frame);
        if (frame.type === 'roundEnd' && first) {
          first = false;
          writes(1);
        }
        return { frame, payload };
      },
    },
    migrate: { postcopy: true, policy: postcopyAtOnce, progressIntervalMs: 0, ...migrate },
    receive: { faults: new ToyFaultService(), ...receive },
  });
  return Object.assign(toy, { said });
}

const summaryOf = async (toy: Toy) => {
  expectMoved(toy, await toy.settled());
  return toy.migration.result;
};

describe('missing pages are named', () => {
  test('most of them before the pause, others before the devices are sent, and those that saving has written before they load', async () => {
    // Each frame of the source takes a while, and only one is on its way.
    const toy = moved({ link: { bytesPerSecond: 100_000, latencyMs: 5, capacity: 1 } });
    expectMoved(toy, await toy.settled());
    expect(toy.said.filter((one) => one !== 'device')).toEqual([
      ...['(0: 1 1)', '(1: 1 1)', '0: 2 1', '1: 2 1', '0: 3 1', '1: 3 1', 'switchover'],
    ]);
    expect(toy.said.indexOf('device')).toBe(4);
  });

  test('however many the guest has written in its last moment: none is sent with the guest paused', async () => {
    // A page takes 41 ms.
    const toy = moved({ link: { bytesPerSecond: 100_000 }, migrate: { pauseLimitMs: 400 } }, {}, (source, writes) => {
      source.onPause = () => {
        for (let page = 0; page < PAGES; page++) writes(page);
      };
    });
    expectMoved(toy, await toy.settled());
    expect(toy.events.filter(({ type }) => type === 'went-back')).toEqual([]);
  });

  test('and are not predicted to be sent with the guest paused, as those of any other switchover are', async () => {
    const { downtime, verifiedPages } = await summaryOf(moved());
    expect(downtime.ramMs).toMatchObject({ predictedMs: 0, rangeMs: [0, 0] });
    expect(verifiedPages).toBe(0);
    const policy: ConvergencePolicy = () => ({ action: 'switchover', reason: 'at once' });
    const other = await summaryOf(moved({ migrate: { policy }, link: { bytesPerSecond: 1e6 } }));
    expect(other.downtime.ramMs.predictedMs).toBeGreaterThan(0);
    expect(other.verifiedPages).toBe(0);
  });
});

describe('a tracker that reports pages until they are read', () => {
  test('reports the missing ones again before the hand-over, which is as it should be', async () => {
    const toy = moved({}, {}, (source) => {
      source.track(new ManualTracker(source.memory));
    });
    expectMoved(toy, await toy.settled());
    // What is not read yet is reported again, and not named again.
    expect(toy.said.filter((one) => one !== 'device')).toEqual([
      ...['(0: 1 1)', '(1: 1 1)', '0: 2 1', '1: 2 1', '0: 3 1', '1: 3 1', 'switchover'],
    ]);
  });

  test('also reports one that was written since, and then the guest stays', async () => {
    const toy = moved({}, {}, (source, writes) => {
      const tracker = source.track(new ManualTracker(source.memory));
      const harvest = tracker.harvest.bind(tracker);
      let paused = 0;
      Object.assign(tracker, {
        harvest: async (into: Parameters<typeof harvest>[0]) => {
          // The last of three harvests with the guest paused.
          if (!source.running && ++paused === 3) writes(50);
          await harvest(into);
        },
      });
    });
    const ends = await toy.settled();
    expectStayed(toy, ends, 'GODWIT_VM_FAILED');
    expect(toy.destination.resumes).toBe(0);
  });
});

describe('post-copy', () => {
  test('over a link of one stream is refused before any page is sent, also when the destination agrees', async () => {
    const toy: Toy = start({
      link: {
        fromDestination: (frame, payload) => ({
          frame: frame.type === 'welcome' ? { ...frame, features: [...frame.features, 'postcopy'] } : frame,
          payload,
        }),
      },
      connector: {
        connect: async (request, signal) => ({
          ...(await toy.link.connector.connect({ ...request, pageChannels: 0 }, signal)),
          pageChannels: [],
        }),
      },
      migrate: { postcopy: true },
      receive: { faults: new ToyFaultService() },
    });
    const { code, sent } = await toy.settled();
    expect([code, toy.source.pauses]).toEqual(['GODWIT_UNSUPPORTED', 0]);
    expect(sent).toMatchObject({ reason: { message: expect.stringContaining('has only one') } });
  });

  test('is what a device without page faults blocks, and it blocks nothing else', async () => {
    const device = () => Object.assign(new FaultyDevice('nic'), { wholeMemory: 'its DMA does not wait' });
    const moving = (postcopy: boolean) => {
      const source = new ToyVm(BLOCKS, { devices: [device()] });
      const destination = new ToyVm(BLOCKS, { running: false, devices: [device()] });
      return start({ source, destination, migrate: { postcopy }, receive: { faults: new ToyFaultService() } });
    };
    const toy = moving(false);
    expectMoved(toy, await toy.settled());
    const blocked = moving(true);
    await expect(blocked.migration.result).rejects.toMatchObject({ code: 'GODWIT_BLOCKED' });
    blocked.incoming.cancel('nobody has connected');
    await blocked.settled();
  });
});
