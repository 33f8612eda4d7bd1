import type { ConvergencePolicy, Frame, ReceiveOptions } from '@godwit/core';
import { type FrameTap, ToyFaultService, type ToyMissing, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, filledVm, PAGE, start, type Toy } from './toy-migration.js';

/** Pages that the guest writes behind the first round: they are missing when it runs at the destination. */
const WRITTEN = [3, 4, 5, 6, 40];

const postcopyAtOnce: ConvergencePolicy = () => ({ action: 'postcopy', reason: 'at once' });

interface Moved extends Toy {
  readonly faults: ToyFaultService;
}

/**
 * A guest that is moved by post-copy, with `refuses` called for each frame of either side; the first that it refuses cuts the link, or
 * is swallowed, as by a host between the two that has lost one of their connections.
 */
function moved(
  refuses: (frame: Frame, from: 'source' | 'destination') => boolean | 'swallows',
  change: (faults: ToyFaultService, destination: ToyVm) => void = () => {},
  receive: Partial<ReceiveOptions> = {},
): Moved {
  const source = filledVm();
  const destination = new ToyVm(BLOCKS, { running: false });
  const faults = new ToyFaultService();
  change(faults, destination);
  let cut = false;
  const tap =
    (from: 'source' | 'destination'): FrameTap =>
    (frame, payload) => {
      if (frame.type === 'roundEnd' && source.running)
        for (const page of WRITTEN) source.write(0, page * PAGE, new Uint8Array(PAGE).fill(100 + page));
      const refused = !cut && refuses(frame, from);
      if (refused !== false) {
        cut = true;
        if (refused === true) toy.link.cut();
        return undefined;
      }
      return { frame, payload };
    };
  const toy = start({
    source,
    destination,
    link: { fromSource: tap('source'), fromDestination: tap('destination') },
    migrate: { postcopy: true, pageChannels: 2, policy: postcopyAtOnce, random: () => 0.5 },
    receive: { faults, ...receive },
  });
  return Object.assign(toy, { faults });
}

async function expectWhole(toy: Moved): Promise<void> {
  const { code, receivedCode } = await toy.settled();
  expect([code, receivedCode]).toEqual([undefined, undefined]);
  expect(toy.source.memory.firstDifference(toy.destination.memory)).toBeUndefined();
  expect([toy.source.running, toy.destination.running, toy.destination.resumes]).toEqual([false, true, 1]);
  expect(toy.link.openStreams).toBe(0);
}

const attemptsOf = (toy: Moved) => toy.events.filter(({ type }) => type === 'went-back').length;

describe('a link that is lost while the guest is paused for post-copy', () => {
  test('is made anew, and the attempt goes on, once everything was said', async () => {
    const toy = moved((frame) => frame.type === 'ready');
    await expectWhole(toy);
    expect([attemptsOf(toy), toy.faults.served.length, toy.source.resumes]).toEqual([0, 1, 0]);
  });

  test('also before the destination serves the pages that were named', async () => {
    const toy = moved(
      () => false,
      (faults) => {
        faults.onServe = async () => {
          toy.link.cut();
          await toy.clock.sleep(150);
        };
      },
    );
    await expectWhole(toy);
    expect([attemptsOf(toy), toy.faults.served.length]).toEqual([0, 1]);
  });

  test('leads back where the destination cannot have heard of the switchover', async () => {
    const toy = moved((frame) => frame.type === 'switchover');
    await expectWhole(toy);
    expect(attemptsOf(toy)).toBe(1);
    // What was named in the attempt that was given up is named again.
    expect(toy.faults.served.length).toBe(1);
  });

  test('loses an answer to a device that loads: the page comes over the next one', async () => {
    let touched: Promise<void> | undefined;
    const toy = moved(
      (frame, from) => from === 'source' && frame.type === 'pages' && frame.round === 0,
      (faults, destination) => {
        Object.assign(destination, { devices: [] });
        faults.onServe = () =>
          void queueMicrotask(() => {
            touched = Promise.resolve().then(() => (faults.served[0] as ToyMissing).touch(0, 4));
          });
      },
    );
    await expectWhole(toy);
    await touched;
    expect((toy.faults.served[0] as ToyMissing).faults).toBe(1);
  });
});

describe('a page that a live source never answers with', () => {
  const swallowed = (keepalive: Partial<ReceiveOptions>) =>
    moved(
      (frame, from) => from === 'source' && frame.type === 'pages' && frame.round === 0 && 'swallows',
      (faults, destination) => {
        destination.onResume = () => void (faults.served[0] as ToyMissing).touch(0, 4);
      },
      keepalive,
    );
  const lossesOf = (toy: Moved) =>
    toy.incomingEvents.flatMap((event) => (event.type === 'link-lost' ? [event.reason.message] : []));

  test('is asked for over another link after the silence', async () => {
    // Shorter than a source waits that has sent everything.
    const toy = swallowed({ keepaliveMs: 500, silenceTimeoutMs: 2000 });
    await expectWhole(toy);
    expect(lossesOf(toy)).toEqual([
      expect.stringMatching(/asked for on the urgent channel, and nothing came there for silenceTimeoutMs \(2000 ms\)/),
    ]);
    const { sent } = await toy.settled();
    expect(sent).toMatchObject({ value: { postcopy: { lostLinks: 1 } } });
  });

  test('without a limit of the silence it is asked for once all others are there', async () => {
    const toy = swallowed({ silenceTimeoutMs: 0 });
    await expectWhole(toy);
    expect(lossesOf(toy)).toEqual([expect.not.stringMatching(/silenceTimeoutMs/)]);
  });
});

test('a switchover by post-copy that fails is undone: the guest runs on at the source, and comes over in the next attempt', async () => {
  const toy = moved(
    () => false,
    (faults) => {
      // Longer than the pause may last.
      faults.onServe = () => (faults.served.length === 0 ? toy.clock.sleep(5_000) : undefined);
    },
  );
  await expectWhole(toy);
  expect(attemptsOf(toy)).toBeGreaterThan(0);
  expect(toy.faults.served[0]?.ended).toBe('undone');
  expect(toy.faults.served.at(-1)?.ended).toBe('ended');
});

test('a policy is asked before the streams of the first connection are ready', async () => {
  const asked: boolean[] = [];
  const toy: Toy = start({
    destination: new ToyVm(BLOCKS, { running: false }),
    // As long as threads take to start.
    connector: {
      async connect(request, signal) {
        const link = await toy.link.connector.connect(request, signal);
        const ready = toy.clock.sleep(1_000);
        for (const stream of link.pageChannels) Object.assign(stream, { ready });
        return link;
      },
    },
    migrate: {
      postcopy: true,
      pageChannels: 1,
      policy: ({ canPostcopy, outcome }) => {
        asked.push(canPostcopy);
        return outcome.round > 0 && canPostcopy ? { action: 'postcopy', reason: 'it can be' } : undefined;
      },
    },
    receive: { faults: new ToyFaultService() },
  });
  expectMoved(toy, await toy.settled());
  expect([asked[0], asked.at(-1)]).toEqual([false, true]);
});

test('where nothing is owed, it is a switchover as any other', async () => {
  const source = filledVm();
  const destination = new ToyVm(BLOCKS, { running: false });
  const faults = new ToyFaultService();
  const toy = start({
    source,
    destination,
    migrate: { postcopy: true, pageChannels: 1, policy: postcopyAtOnce },
    receive: { faults },
  });
  await expectWhole(Object.assign(toy, { faults }));
  expect(faults.served).toEqual([]);
});

describe('the states of both sides', () => {
  const statesOf = (toy: Moved) => [
    toy.events.flatMap((event) => (event.type === 'state' ? [event.state] : [])),
    toy.incomingEvents.flatMap((event) => (event.type === 'state' ? [event.state] : [])),
  ];

  test('name post-copy, from the pause on', async () => {
    const toy = moved(() => false);
    await expectWhole(toy);
    expect(statesOf(toy)).toEqual([
      ['setup', 'active', 'postcopy-device', 'postcopy-active', 'completed'],
      ['setup', 'active', 'device', 'postcopy-active', 'completed'],
    ]);
  });

  test('say that the link is lost, and that it is made anew', async () => {
    const toy = moved((frame, from) => from === 'source' && frame.type === 'pages' && frame.round === 2);
    await expectWhole(toy);
    expect(statesOf(toy)).toEqual([
      [
        'setup',
        'active',
        'postcopy-device',
        'postcopy-active',
        'postcopy-paused',
        'postcopy-recover',
        'postcopy-active',
        'completed',
      ],
      [
        'setup',
        'active',
        'device',
        'postcopy-active',
        'postcopy-paused',
        'postcopy-recover',
        'postcopy-active',
        'completed',
      ],
    ]);
    const { sent } = await toy.settled();
    expect(sent).toMatchObject({ value: { postcopy: { pages: WRITTEN.length, lostLinks: 1 } } });
  });
});
