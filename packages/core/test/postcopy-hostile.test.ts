import { delta, type Frame, type FrameStream, migrate } from '@godwit/core';
import { FaultyDevice, memoryLink, ToyFaultService, type ToyMissing, ToyVm, VirtualClock } from '@godwit/core/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { RESUMED, WELCOME } from './played-destination.js';
import { DEVICES, end, GO, PlayedSource, pages, SWITCHOVER } from './played-source.js';
import { BLOCKS, codeOf, filledVm, PAGE } from './toy-migration.js';

const request = (page: number, count = 1, block = 0): Frame => ({ type: 'requestPages', block, page, pages: count });

/** Which frame of the source the destination answers with frames of its own: on the control stream, and on the urgent channel. */
interface Lapse {
  readonly at: Frame['type'];
  readonly control?: readonly Frame[];
  readonly urgent?: readonly Frame[];
  /** It never says that it is whole; over later connections it says that it lacks nothing. */
  readonly neverWhole?: boolean;
}

/** Plays a destination that agrees to post-copy, over as many connections as the source makes; it lapses over the first one. */
async function playDestination({ at, control: said = [], urgent: asked = [], neverWhole = false }: Lapse) {
  const clock = new VirtualClock();
  const link = memoryLink({ clock, capacity: 64 });
  const source = filledVm();
  const migration = migrate(source, link.connector, {
    ...{ clock, postcopy: true, reconnectTimeoutMs: 2_000, settleTimeoutMs: 2_000, random: () => 0.5 },
    policy: ({ canPostcopy }) => (canPostcopy ? { action: 'postcopy', reason: 'at once' } : undefined),
  });
  const heard: Frame[] = [];
  let count = 0;
  const honest = (frame: Frame, first: boolean): readonly Frame[] => {
    switch (frame.type) {
      case 'hello':
        if (first) return [{ ...WELCOME, features: frame.features }];
        if (neverWhole) return [{ ...RESUMED, state: 'incomplete', round: 3 } as Frame];
        return [{ type: 'error', code: 'GODWIT_UNKNOWN_MIGRATION', message: 'gone', retry: false }];
      case 'ping':
        return [{ type: 'pong', id: frame.id }];
      case 'roundEnd': {
        const ack = { type: 'roundAck', round: frame.round, pages: count } as const;
        count = 0;
        if (source.running) source.write(0, 0, Uint8Array.of(7));
        return frame.round === 1 || neverWhole ? [ack] : [ack, { type: 'whole' }];
      }
      case 'prepare':
        return [{ ...frame, type: 'prepared', incarnation: WELCOME.incarnation }];
      case 'switchover':
        return [{ type: 'ready', attempt: frame.attempt, loadMs: 0 }];
      case 'go':
        return [{ type: 'running', resumeMs: 0, sinceReadyMs: 0 }];
      default:
        return [];
    }
  };
  const serve = async (stream: FrameStream, urgent: FrameStream, first: boolean) => {
    for (;;) {
      const received = await stream.read();
      if (received === null || received.frame.type === 'error') return void stream.close();
      const { frame } = received;
      heard.push(frame);
      if (frame.type === 'pages' || frame.type === 'zeroPages')
        for (let i = 1; i < frame.runs.length; i += 2) count += frame.runs[i] as number;
      await stream.skipPayload();
      const lapse = first && frame.type === at;
      for (const one of lapse && said.length > 0 ? said : honest(frame, first)) await stream.write(one);
      if (lapse) for (const one of asked) await urgent.write(one);
    }
  };
  void (async () => {
    for (let first = true; ; first = false) {
      const incoming = await link.listener.accept(new AbortController().signal);
      const [urgent] = (await incoming.pageChannels('', 1, new AbortController().signal)) as [FrameStream];
      void serve(incoming.control, urgent, first).catch(() => {});
    }
  })();
  const [result] = await Promise.allSettled([migration.result]);
  return { source, link, clock, heard, migration, code: codeOf(result as PromiseSettledResult<unknown>), result };
}

describe('a destination of post-copy', () => {
  test('that behaves is served', async () => {
    const { code, source, heard } = await playDestination({ at: 'running' });
    expect([code, source.running]).toEqual([undefined, false]);
    expect(heard.filter(({ type }) => type === 'missing').length).toBeGreaterThan(0);
  });

  test.each<readonly [string, Lapse, string]>([
    ['asks for a page while the guest runs at the source', { at: 'roundEnd', urgent: [request(0)] }, 'GODWIT_PROTOCOL'],
    ['asks before the last pages are named', { at: 'missing', urgent: [request(0)] }, 'GODWIT_PROTOCOL'],
    ['says something else on the urgent channel', { at: 'roundEnd', urgent: [{ type: 'whole' }] }, 'GODWIT_PROTOCOL'],
    [
      'says that nothing is missing of a guest that it does not have',
      { at: 'switchover', control: [{ type: 'whole' }] },
      'GODWIT_PROTOCOL',
    ],
    ['asks on the control stream', { at: 'roundEnd', control: [request(0)] }, 'GODWIT_PROTOCOL'],
    [
      'names missing pages after its welcome',
      { at: 'roundEnd', control: [{ type: 'missing', block: 0, runs: [0, 1] }] },
      'GODWIT_PROTOCOL',
    ],
    [
      'names missing pages before a welcome',
      { at: 'hello', control: [{ type: 'missing', block: 0, runs: [0, 1] }] },
      'GODWIT_PROTOCOL',
    ],
    [
      'says that it has the guest already',
      { at: 'hello', control: [{ ...RESUMED, state: 'incomplete' } as Frame] },
      'GODWIT_PROTOCOL',
    ],
    ['does not agree to it', { at: 'hello', control: [WELCOME] }, 'GODWIT_UNSUPPORTED'],
  ])('that %s: the guest runs on at the source', async (_name, lapse, code) => {
    const run = await playDestination(lapse);
    expect([run.code, run.source.running, run.migration.ownership]).toEqual([code, true, 'kept']);
    expect(run.link.openStreams).toBe(0);
    expect(run.clock.now()).toBeLessThan(60_000);
  });

  test.each<readonly [string, Lapse]>([
    ['asks for a page outside of its block', { at: 'go', urgent: [request(64)] }],
    ['asks for a block that there is not', { at: 'go', urgent: [request(0, 1, 7)] }],
    ['asks for no page', { at: 'go', urgent: [request(0, 0)] }],
    ['asks for more pages at once than there may be', { at: 'go', urgent: [request(0, 65)] }],
    ['says what only a source says', { at: 'go', urgent: [{ type: 'pages', round: 0, block: 0, runs: [0, 1] }] }],
    [
      'says running twice',
      {
        at: 'go',
        control: [
          { type: 'running', resumeMs: 0, sinceReadyMs: 0 },
          { type: 'running', resumeMs: 0, sinceReadyMs: 0 },
        ],
      },
    ],
    [
      'acknowledges another round',
      {
        at: 'go',
        control: [
          { type: 'running', resumeMs: 0, sinceReadyMs: 0 },
          { type: 'roundAck', round: 9, pages: 0 },
        ],
      },
    ],
    [
      'is whole twice',
      { at: 'go', control: [{ type: 'running', resumeMs: 0, sinceReadyMs: 0 }, { type: 'whole' }, { type: 'whole' }] },
    ],
  ])('that has the guest and %s: it stays paused at the source, for a person to decide', async (_name, lapse) => {
    const run = await playDestination(lapse);
    expect([run.code, run.source.running, run.source.resumes]).toEqual(['GODWIT_OWNERSHIP_UNKNOWN', false, 0]);
    expect(run.migration.ownership).toBe('unknown');
    expect(run.link.openStreams).toBe(0);
    const { lostMs } = await run.migration.recover({ destinationIsDead: true });
    expect([run.source.running, lostMs >= 0]).toEqual([true, true]);
  });

  test('that lacks nothing and never says that it is whole is asked once more, and then left to a person', async () => {
    const run = await playDestination({ at: 'running', neverWhole: true });
    expect(run.code).toBe('GODWIT_OWNERSHIP_UNKNOWN');
    expect(run.result).toMatchObject({ reason: { message: expect.stringContaining('has not said "whole"') } });
    expect(run.heard.filter(({ type }) => type === 'hello')).toHaveLength(2);
    expect([run.source.running, run.migration.ownership]).toEqual([false, 'unknown']);
    expect(run.link.openStreams).toBe(0);
  });

  test('that asks for every page at once is answered, and whole nevertheless', async () => {
    const asked = Array.from({ length: 64 }, (_, i) => request(i));
    const run = await playDestination({ at: 'go', urgent: asked });
    expect([run.code, run.source.running]).toEqual([undefined, false]);
  });
});

let hostile: PlayedSource;
afterEach(() => void hostile?.incoming.cancel());

const missing = (runs: readonly number[], more: object = {}): Frame =>
  ({ type: 'missing', block: 0, runs, ...more }) as Frame;

/** Two pages have come, of which the guest has written one since. */
const ROUND = [pages([0, 2], 2 * PAGE), end(2)] as const;

async function played(features: readonly string[] = ['postcopy', 'bitmap', 'back', 'encoding:delta']) {
  const faults = new ToyFaultService();
  hostile = new PlayedSource(100_000, { faults, encodings: [delta()] });
  await hostile.hello({ features, pageChannels: 1 });
  await hostile.hear('welcome');
  return { faults, vm: hostile.vm };
}

describe('a source of post-copy', () => {
  test.each<readonly [string, readonly (Frame | readonly [Frame, Uint8Array])[], string]>([
    ['names pages behind the end', [...ROUND, missing([63, 2])], 'GODWIT_OUT_OF_RANGE'],
    ['names pages of no block', [...ROUND, missing([0, 1], { block: 1 })], 'GODWIT_OUT_OF_RANGE'],
    ['names no page', [...ROUND, missing([])], 'GODWIT_PROTOCOL'],
    ['names half pages', [...ROUND, missing([0.5, 1])], 'GODWIT_PROTOCOL'],
    ['names a bitmap behind the end', [...ROUND, missing([], { firstPage: 64, words: [1] })], 'GODWIT_OUT_OF_RANGE'],
    ['names pages after switchover', [...ROUND, ...DEVICES, SWITCHOVER, missing([0, 1])], 'GODWIT_PROTOCOL'],
    ['asks for pages', [...ROUND, request(0)], 'GODWIT_PROTOCOL'],
    ['says that nothing is missing', [...ROUND, { type: 'whole' }], 'GODWIT_PROTOCOL'],
    [
      'sends pages after they were named, behind switchover',
      [...ROUND, missing([0, 1]), ...DEVICES, SWITCHOVER, pages([0, 1], PAGE, { round: 2 })],
      'GODWIT_PROTOCOL',
    ],
  ])('that %s is refused, and the guest never runs', async (_name, frames, code) => {
    await played();
    await hostile.send(...frames);
    expect(await hostile.refused()).toBe(code);
  });

  test('that names pages without agreement is refused', async () => {
    await played(['bitmap']);
    await hostile.send(missing([0, 1]));
    expect(await hostile.refused()).toBe('GODWIT_PROTOCOL');
    expect(hostile.heardOf('error')).toMatchObject([
      { message: 'the source sent "missing", though "postcopy" was not agreed on' },
    ]);
  });

  test('that names pages which a device has pinned is told that they cannot be given up', async () => {
    const { vm } = await played();
    await hostile.send(...ROUND);
    await hostile.hear('roundAck');
    const unpin = vm.memory.blocks[0]?.pin?.({ firstPage: 1, pageCount: 1 });
    await hostile.send(missing([0, 2]));
    expect(await hostile.refused()).toBe('GODWIT_BLOCKED');
    unpin?.();
  });

  /** The guest runs at the destination, and page 1 is missing. */
  async function running(): Promise<{ readonly served: ToyMissing; readonly touched: Promise<void> }> {
    const { faults } = await played();
    await hostile.send(...ROUND, missing([1, 1]), missing([40, 1]), ...DEVICES, SWITCHOVER);
    await hostile.hear('ready');
    await hostile.send(GO);
    await hostile.hear('running');
    const served = faults.served[0] as ToyMissing;
    const touched = served.touch(0, 1);
    return { served, touched };
  }

  const answer = (runs: readonly number[], bytes: number, more: object = {}) =>
    pages(runs, bytes, { round: 0, ...more });

  test.each<readonly [string, 'control' | 'urgent', Frame | readonly [Frame, Uint8Array]]>([
    ['an answer of a round', 'urgent', pages([1, 1], PAGE, { round: 2 })],
    ['an answer behind the end', 'urgent', answer([64, 1], PAGE)],
    ['an answer of no block', 'urgent', answer([1, 1], PAGE, { block: 3 })],
    ['half an answer', 'urgent', answer([1, 2], PAGE)],
    ['zero pages for an answer', 'urgent', { type: 'zeroPages', round: 0, block: 0, runs: [1, 1] }],
    ['a request', 'urgent', request(1)],
    ['an end of a round on the urgent channel', 'urgent', end(0, 2)],
    [
      'a delta of a page that is missing',
      'control',
      [{ type: 'deltaPages', round: 2, block: 0, runs: [1, 1] }, Uint8Array.of(0)],
    ],
    ['a page of an answer', 'control', answer([1, 1], PAGE)],
    ['a page of a round to come', 'control', pages([1, 1], PAGE, { round: 3 })],
    ['a device', 'control', [{ type: 'device', device: 0, sequence: 1, last: true, attempt: 1 }, new Uint8Array(1)]],
    ['go again', 'control', GO],
    ['back', 'control', { type: 'back', attempt: 1 }],
    ['more that is missing', 'control', missing([2, 1])],
  ])(
    'that sends %s loses its link: the guest runs on, nothing is put, and it may come back',
    async (_name, on, what) => {
      const { served, touched } = await running();
      const [frame, payload] = Array.isArray(what) ? (what as [Frame, Uint8Array]) : [what as Frame, undefined];
      const stream = on === 'urgent' ? (hostile.pages[0] as FrameStream) : hostile.control;
      await stream.write(frame, payload && [payload]);
      while (hostile.incoming.state === 'postcopy-active') await hostile.clock.sleep(1);
      expect([hostile.incoming.state, hostile.vm.running]).toEqual(['postcopy-paused', true]);
      expect(hostile.lost.map(({ code }) => code)).toEqual([expect.stringMatching(/PROTOCOL|OUT_OF_RANGE/)]);
      expect(served.status()).toMatchObject({ pagesMissing: 2, duplicatePages: 0 });
      // An honest source sends what is missing.
      await hostile.again({
        stage: 'handedOver',
        features: ['postcopy', 'bitmap', 'back', 'encoding:delta'],
        pageChannels: 1,
      });
      await hostile.hear('resumed');
      expect(hostile.heardOf('resumed')).toMatchObject([{ state: 'incomplete', round: 2 }]);
      expect(hostile.heardOf('missing').map(({ runs, words }) => words ?? runs)).toHaveLength(1);
      await hostile.send(pages([1, 1, 40, 1], 2 * PAGE, { round: 2 }), end(2, 2));
      await hostile.hear('whole');
      await hostile.send({ type: 'released' });
      await touched;
      const { summary } = await hostile.incoming.result;
      expect(summary.runState).toBe('running');
      expect([hostile.vm.running, hostile.vm.resumes]).toEqual([true, 1]);
    },
  );

  test('that answers twice, and with pages that nobody asked for, changes nothing that is there', async () => {
    const { served, touched } = await running();
    const [urgent] = hostile.pages as [FrameStream];
    for (const [frame, payload] of [answer([1, 1], PAGE), answer([1, 1], PAGE), answer([0, 3], 3 * PAGE)]) {
      await urgent.write(frame, [payload.map(() => 9)]);
      await hostile.clock.sleep(1);
    }
    await touched;
    expect(served.status()).toMatchObject({ pagesMissing: 1, duplicatePages: 4 });
    expect([0, 1, 2].map((page) => hostile.vm.memory.blocks[0]?.view(page * PAGE, 1)[0])).toEqual([7, 9, 0]);
    await hostile.send(pages([40, 1], PAGE, { round: 2 }), end(1, 2));
    await hostile.hear('whole');
    await hostile.send({ type: 'released' });
    await hostile.incoming.result;
  });

  test.each(['the end of the round', 'its acknowledgement'] as const)(
    'that has sent every page and is gone before %s is not waited for: nothing is missing',
    async (when) => {
      const { touched } = await running();
      const last = pages([1, 1, 40, 1], 2 * PAGE, { round: 2 });
      if (when === 'the end of the round') await hostile.send(last);
      else {
        await hostile.send(last, end(2, 2));
        await hostile.hear('roundAck');
      }
      await hostile.clock.sleep(1);
      hostile.link.cut();
      await touched;
      const { summary } = await hostile.incoming.result;
      expect([summary.faults?.pagesMissing, hostile.incoming.ownership]).toEqual([0, 'untold']);
      expect(hostile.clock.now()).toBeLessThan(120_000);
    },
  );

  test('that comes back in the moment in which the last page was found to be there is answered at once', async () => {
    const { touched } = await running();
    await hostile.send(pages([1, 1, 40, 1], 2 * PAGE, { round: 2 }));
    await hostile.clock.sleep(1);
    const features = ['postcopy', 'bitmap', 'back', 'encoding:delta'];
    await hostile.again({ stage: 'handedOver', features, pageChannels: 1 });
    const before = hostile.clock.now();
    await hostile.hear('resumed');
    expect(hostile.clock.now() - before).toBeLessThan(100);
    expect(hostile.heardOf('resumed')).toMatchObject([{ state: 'running' }]);
    await hostile.send({ type: 'released' });
    await touched;
    await hostile.incoming.result;
    expect(hostile.incoming.ownership).toBe('settled');
  });

  test('that never comes back is given up by a person alone, and the guest is paused where it is', async () => {
    await running();
    hostile.link.cut();
    await hostile.clock.sleep(3_600_000);
    expect([hostile.incoming.state, hostile.vm.running]).toEqual(['postcopy-paused', true]);
    expect(hostile.incoming.giveUpPages()).toBe(true);
    await expect(hostile.incoming.result).rejects.toMatchObject({ code: 'GODWIT_PAGES_MISSING' });
    expect([hostile.vm.running, hostile.incoming.giveUpPages()]).toEqual([false, false]);
  });
});

test('a VM that cannot do without its memory is refused by either side, before a page moves', async () => {
  const needy = Object.assign(new FaultyDevice('uart'), { wholeMemory: 'it writes by DMA' });
  const source = filledVm();
  source.devices = [needy];
  const link = memoryLink();
  await expect(migrate(source, link.connector, { postcopy: true }).result).rejects.toMatchObject({
    code: 'GODWIT_BLOCKED',
    message: expect.stringContaining('it writes by DMA'),
  });
  const faults = new ToyFaultService();
  faults.reasons = ['its memory is on paper'];
  hostile = new PlayedSource(100_000, { faults });
  await hostile.hello({ features: ['postcopy'], pageChannels: 1 });
  expect(await hostile.refused()).toBe('GODWIT_BLOCKED');
  expect(new ToyVm(BLOCKS).running).toBe(true);
});
