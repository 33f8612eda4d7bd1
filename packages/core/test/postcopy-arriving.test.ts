import { claimOf, type Frame, type FrameStream, GodwitError, type ReceiveOptions } from '@godwit/core';
import { FaultyDevice, ToyFaultService, type ToyMissing } from '@godwit/core/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import {
  beforeFirst,
  through as changing,
  DEVICES,
  end,
  failingOnce,
  GO,
  HELLO,
  PlayedSource,
  pages,
  SWITCHOVER,
} from './played-source.js';
import { held, watch } from './played-stream.js';
import { PAGE } from './toy-migration.js';

const FEATURES = ['postcopy', 'bitmap', 'back', 'loadEarly'];

let played: PlayedSource;
afterEach(async () => {
  played.incoming.cancel();
  played.incoming.giveUpPages();
  await played.clock.sleep(60_000);
  await played.control.close().catch(() => {});
});

/** Lets everything that can run do so. */
const turn = () => played.clock.sleep(1);

const missing = (...runs: number[]): Frame => ({ type: 'missing', block: 0, runs });

/** Two pages have come. */
const ROUND = [pages([0, 2], 2 * PAGE), end(2)] as const;

interface Beginning {
  readonly faults?: ToyFaultService;
  readonly options?: Partial<ReceiveOptions>;
  readonly through?: ConstructorParameters<typeof PlayedSource>[2];
  /** Page channels beside the urgent one. */
  readonly pageChannels?: number;
}

/** A destination that has agreed to post-copy. */
async function begin({ faults = new ToyFaultService(), options = {}, through, pageChannels = 0 }: Beginning = {}) {
  played = new PlayedSource(100_000, { faults, progressIntervalMs: 0, ...options }, through);
  await played.hello({ features: FEATURES, pageChannels: pageChannels + 1 });
  await played.hear('welcome');
  return faults;
}

/** Pages 1 and 40 are missing, and the guest runs. */
async function running(beginning: Beginning = {}): Promise<ToyMissing> {
  const faults = await begin(beginning);
  const channel = (beginning.pageChannels ?? 0) > 0 ? (played.pages[0] as FrameStream) : played.control;
  const [[frame, payload], ending] = ROUND;
  await channel.write(frame, [payload]);
  await channel.write(ending);
  await played.hear('roundAck');
  await played.send(missing(1, 1), missing(40, 1), ...DEVICES, SWITCHOVER);
  await played.hear('ready');
  await played.send(GO);
  await played.hear('running');
  return faults.served[0] as ToyMissing;
}

describe('the destination agrees to post-copy', () => {
  test.each<readonly [string, boolean, number, readonly string[], boolean]>([
    ['with a service and an urgent channel', true, 1, ['postcopy'], true],
    ['not without the urgent channel', true, 0, ['postcopy'], false],
    ['not without a service', false, 1, ['postcopy'], false],
    ['not unasked', true, 1, [], false],
  ])('%s', async (_, serves, pageChannels, features, agrees) => {
    played = new PlayedSource(100_000, serves ? { faults: new ToyFaultService() } : {});
    await played.hello({ features, pageChannels });
    await played.hear('welcome');
    expect(played.heardOf('welcome')).toMatchObject([{ features: agrees ? ['postcopy'] : [] }]);
  });

  test('and a source that does not ask for it may bring a VM that could not be served', async () => {
    const faults = new ToyFaultService();
    faults.reasons = ['its memory is on paper'];
    played = new PlayedSource(100_000, { faults });
    played.vm.devices = [
      Object.assign(new FaultyDevice('uart'), { wholeMemory: 'it writes by DMA' }),
      new FaultyDevice('rtc'),
    ];
    await played.hello();
    await played.hear('welcome');
  });

  test.each<readonly [string, readonly string[], object, RegExp]>([
    ['its memory', ['its memory is on paper'], {}, /which post-copy takes: its memory is on paper$/],
    ['a device', [], { wholeMemory: 'it writes by DMA' }, /which post-copy takes: device "uart": it writes by DMA$/],
  ])('not where %s cannot be served: the source is told why', async (_, reasons, device, message) => {
    const faults = new ToyFaultService();
    faults.reasons = reasons;
    played = new PlayedSource(100_000, { faults });
    played.vm.devices = [Object.assign(new FaultyDevice('uart'), device), new FaultyDevice('rtc')];
    await played.hello({ features: ['postcopy'], pageChannels: 1 });
    expect(await played.refused()).toBe('GODWIT_BLOCKED');
    expect(played.heardOf('error')).toMatchObject([{ message: expect.stringMatching(message) }]);
  });
});

describe('"prepare"', () => {
  const PREPARE: Frame = { type: 'prepare', attempt: 1, deviceSequences: [0, 0] };
  const waiting = () => {
    const [faults, threads] = [new ToyFaultService(), held()];
    faults.ready = () => threads.promise;
    return { faults, threads };
  };

  test('is answered once the service is ready', async () => {
    const { faults, threads } = waiting();
    await begin({ faults });
    await played.send(...ROUND, PREPARE);
    await turn();
    expect(played.heardOf('prepared')).toEqual([]);
    threads.release();
    await played.hear('prepared');
  });

  test('does not wait for a service that is not used', async () => {
    played = new PlayedSource(100_000, { faults: waiting().faults });
    await played.hello();
    await played.hear('welcome');
    await played.send(...ROUND, PREPARE);
    await played.hear('prepared');
  });
});

describe('pages that are named', () => {
  /** The runs that the destination has given up. */
  function givenUp(): number[][] {
    const [block] = played.vm.memory.blocks;
    const runs: number[][] = [];
    const discard = block?.discard;
    Object.assign(block as object, {
      discard: (run: { firstPage: number; pageCount: number }) => {
        runs.push([run.firstPage, run.pageCount]);
        return discard?.(run);
      },
    });
    return runs;
  }

  test('are given up once, where there is something to give up', async () => {
    await begin();
    const runs = givenUp();
    await played.send(...ROUND);
    await played.hear('roundAck');
    await played.send(missing(0, 1), missing(0, 2, 40, 1));
    await turn();
    expect(runs).toEqual([
      [0, 1],
      [1, 1],
    ]);
  });

  test('and are pinned, but have never come, are no obstacle', async () => {
    await begin();
    await played.send(...ROUND);
    await played.hear('roundAck');
    const unpin = played.vm.memory.blocks[0]?.pin?.({ firstPage: 40, pageCount: 1 });
    await played.send(missing(40, 1), ...DEVICES, SWITCHOVER);
    await played.hear('ready');
    unpin?.();
  });

  test('are forgotten with the link: the source sends them, or names them anew', async () => {
    const faults = await begin();
    await played.send(...ROUND);
    await played.hear('roundAck');
    await played.send(missing(1, 1));
    await turn();
    await played.again({ features: FEATURES, pageChannels: 1 });
    await played.hear('resumed');
    await played.send(pages([1, 1], PAGE, { round: 2 }), end(1, 2));
    await played.hear('roundAck');
    await played.send(missing(40, 1), ...DEVICES, { ...SWITCHOVER, round: 2 });
    await played.hear('ready');
    expect(faults.served[0]?.status()).toMatchObject({ pagesTotal: 1 });
    expect(faults.served[0]?.missing().at(0).has(40)).toBe(true);
  });

  test('are not followed by an early load, which could read zeros in their place', async () => {
    await begin({ pageChannels: 1 });
    await played.send(missing(1, 1), { type: 'loadEarly', attempt: 1, device: 0, deviceSequences: [0, 0] });
    expect(await played.refused()).toBe('GODWIT_PROTOCOL');
    expect(played.heardOf('error')).toMatchObject([
      { message: 'the source sent "loadEarly" after "missing": a load could read zeros' },
    ]);
  });
});

describe('while the memory is being prepared for them', () => {
  /** `switchover` was sent, and the service takes until `serving` is released. */
  async function loading(more: Beginning = {}) {
    const [faults, serving] = [new ToyFaultService(), held()];
    faults.onServe = () => serving.promise;
    await begin({ ...more, faults });
    await played.send(...ROUND, missing(1, 1), ...DEVICES, SWITCHOVER);
    await turn();
    return { faults, serving };
  }

  test('the VM is claimed for it, and no device loads', async () => {
    const { serving } = await loading();
    expect(claimOf(played.vm).waitingFor).toEqual(['serving the missing pages of the VM']);
    expect(played.vm.devices.map((one) => (one as FaultyDevice).loads)).toEqual([0, 0]);
    serving.release();
    await played.hear('ready');
  });

  test('the link may be lost: pages are asked for over the next one', async () => {
    const { faults, serving } = await loading();
    played.link.cut();
    await turn();
    serving.release();
    await turn();
    await played.again({ stage: 'paused', features: FEATURES, pageChannels: 1 });
    await played.hear('resumed');
    const asked = (played.pages[0] as FrameStream).read();
    void faults.served[0]?.touch(0, 1);
    expect((await asked)?.frame).toMatchObject({ type: 'requestPages', page: 1 });
  });

  test('the caller may cancel: no device loads any more, and the VM is abandoned when the service has ended', async () => {
    const { faults, serving } = await loading();
    played.incoming.cancel('enough');
    await turn();
    expect(played.vm.abandoned).toBeUndefined();
    serving.release();
    expect(await played.refused()).toBe('GODWIT_CANCELLED');
    expect(played.vm.devices.map((one) => (one as FaultyDevice).loads)).toEqual([0, 0]);
    expect([faults.served[0]?.ended, played.vm.abandoned]).toMatchObject(['ended', { code: 'GODWIT_CANCELLED' }]);
  });
});

describe('"back" after the pages are served', () => {
  const BACK: Frame = { type: 'back', attempt: 1 };
  async function ready(more: Beginning = {}): Promise<ToyMissing> {
    const faults = await begin(more);
    await played.send(...ROUND, missing(1, 1), ...DEVICES, SWITCHOVER);
    await played.hear('ready');
    return faults.served[0] as ToyMissing;
  }

  test('is acknowledged once that is undone: no page may come before', async () => {
    const served = await ready();
    const undoing = held();
    served.undo = () => undoing.promise;
    await played.send(BACK);
    await turn();
    expect(played.heardOf('backAck')).toEqual([]);
    undoing.release();
    await played.hear('backAck');
  });

  test('loses its link where that cannot be said', async () => {
    const broken = new GodwitError('GODWIT_LINK_LOST', 'EPIPE');
    await ready({ through: failingOnce('backAck', broken) });
    await played.send(BACK);
    while (played.lost.length === 0) await turn();
    expect(played.lost).toEqual([broken]);
    await played.again({ features: FEATURES, pageChannels: 1, attempt: 2 });
    await played.hear('resumed');
  });
});

describe('the guest that runs here', () => {
  test('gets a page that comes without a request at once, and not with the end of its round', async () => {
    const served = await running();
    const touched = watch(served.touch(0, 1));
    await played.send(pages([1, 1], PAGE, { round: 2 }));
    await turn();
    expect([touched.state, served.status().pagesMissing]).toEqual(['resolved', 1]);
    await played.send(pages([40, 1], PAGE, { round: 2 }), end(2, 2));
    await played.hear('whole');
    await played.send({ type: 'released' });
    const { summary } = await played.incoming.result;
    // Nothing was compared.
    expect(summary).toMatchObject({ verified: false, faults: { pagesMissing: 0, pagesTotal: 2 } });
  });

  test.each<readonly [string, number, Frame | readonly [Frame, Uint8Array], string]>([
    [
      'pages on the control stream beside a page channel',
      1,
      pages([1, 1], PAGE, { round: 2 }),
      'the source sent "pages" on the control stream',
    ],
    [
      'that it has released its guest, whose pages it has',
      0,
      { type: 'released' },
      'the source sent "released" while pages are missing here',
    ],
  ])('does not mind a source that sends %s: the link is lost', async (_, pageChannels, what, message) => {
    const served = await running({ pageChannels });
    await played.send(what);
    while (played.lost.length === 0) await turn();
    expect(played.lost).toMatchObject([{ code: 'GODWIT_PROTOCOL', message }]);
    expect([played.vm.running, served.status().pagesMissing]).toEqual([true, 2]);
    await played.again({ stage: 'handedOver', features: FEATURES, pageChannels: pageChannels + 1 });
    await played.hear('resumed');
    const channel = pageChannels > 0 ? (played.pages[0] as FrameStream) : played.control;
    const [frame, payload] = pages([1, 1, 40, 1], 2 * PAGE, { round: 2 });
    await channel.write(frame, [payload]);
    await channel.write(end(2, 2));
    await played.hear('whole');
    await played.send({ type: 'released' });
    await played.incoming.result;
  });

  /** A source has come back, and is just being answered. */
  async function comingBack() {
    const answering = held();
    const served = await running({ through: beforeFirst('resumed', () => answering.promise) });
    await played.again({ stage: 'handedOver', features: FEATURES, pageChannels: 1 });
    await played.hear('missing');
    await turn();
    return { answering, served };
  }

  test('may be whole while a source that has come back is answered: that is said after the answer', async () => {
    const { answering, served } = await comingBack();
    const sink = served.sink();
    for (const page of [1, 40]) sink.put(0, page, 1, 0);
    served.arrived();
    await turn();
    answering.release();
    await played.hear('whole');
    expect(played.heard.map(({ type }) => type).filter((type) => type !== 'missing')).toEqual(['resumed', 'whole']);
    await played.send({ type: 'released' });
    await played.incoming.result;
  });

  /** Gives the pages up, and expects the end within the seconds that closing a connection may take. */
  async function expectGivenUp(): Promise<void> {
    const before = played.clock.now();
    expect(played.incoming.giveUpPages()).toBe(true);
    await expect(played.incoming.result).rejects.toMatchObject({ code: 'GODWIT_PAGES_MISSING' });
    expect(played.clock.now() - before).toBeLessThan(5_000);
    expect([played.vm.running, played.incoming.ownership]).toEqual([false, 'stranded']);
  }

  test('may be given up while a source that has come back is answered: it is paused whatever becomes of the answer', async () => {
    await comingBack();
    await expectGivenUp();
    const types = played.events.map(({ type }) => type);
    expect(types.filter((type) => ['reconnected', 'faults', 'failed'].includes(type))).toEqual(['faults', 'failed']);
    expect(played.heardOf('error')).toMatchObject([{ code: 'GODWIT_PAGES_MISSING' }]);
  });

  test.each(Array.from({ length: 12 }, (_, turns) => [turns]))(
    'may be given up %d turns after a source has come back whose channels never come',
    async (turns) => {
      let links = 0;
      const never = () => new Promise<never>(() => {});
      await running({ through: changing(() => (links++ === 0 ? {} : { pageChannels: never })) });
      played.link.cut();
      while (played.incoming.state !== 'postcopy-paused') await turn();
      await played.connect(1);
      const coming = played.send({ ...HELLO, stage: 'handedOver', features: FEATURES, pageChannels: 1, connection: 2 });
      // The hello is on its way, is taken, or is just being answered.
      for (let i = 0; i < turns * 4; i++) await Promise.resolve();
      await expectGivenUp();
      await coming;
    },
  );

  test('may be given up while "running" cannot be written', async () => {
    const faults = await begin({ through: beforeFirst('running', () => new Promise(() => {})) });
    await played.send(...ROUND, missing(1, 1), ...DEVICES, SWITCHOVER);
    await played.hear('ready');
    await played.send(GO);
    await turn();
    expect([played.incoming.state, faults.served[0]?.status().pagesMissing]).toEqual(['postcopy-active', 1]);
    await expectGivenUp();
  });

  test('waits for its pages after the listener has failed, and says so', async () => {
    const failing = held();
    const failed = failing.promise.then(() => Promise.reject(new Error('EBADF')));
    failed.catch(() => {});
    await running({
      through: (listener) => ({
        accept: (signal) => Promise.race([listener.accept(signal), failed]),
        close: () => listener.close(),
      }),
    });
    failing.release();
    played.link.cut();
    await played.clock.sleep(60_000);
    expect([played.incoming.state, played.vm.running]).toEqual(['postcopy-paused', true]);
    expect(played.eventsOf('warning')).toEqual([
      {
        type: 'warning',
        code: 'GODWIT_LINK_LOST',
        message: expect.stringMatching(
          /^the source cannot connect any more \(.*EBADF\), and 2 pages .* giveUpPages\(\)/,
        ),
      },
    ]);
    await expectGivenUp();
  });

  test('is whole without a link too: the source is told over the next one', async () => {
    const served = await running();
    played.link.cut();
    while (played.incoming.state !== 'postcopy-paused') await turn();
    const sink = served.sink();
    for (const page of [1, 40]) sink.put(0, page, 1, 0);
    served.arrived();
    await played.clock.sleep(1_000);
    await played.again({ stage: 'handedOver', features: FEATURES, pageChannels: 1 });
    await played.hear('resumed');
    expect(played.heardOf('resumed')).toMatchObject([{ state: 'running' }]);
    await played.send({ type: 'released' });
    await played.incoming.result;
    // One link was lost: that is told once.
    expect(played.lost).toMatchObject([{ code: 'GODWIT_LINK_LOST', message: 'the link was cut' }]);
  });
});
