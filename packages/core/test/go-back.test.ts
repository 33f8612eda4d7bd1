import type { Frame } from '@godwit/core';
import { FaultyDevice, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { IterativeDevice } from './iterative-device.js';
import { type Answers, play } from './played-destination.js';
import { BLOCKS, expectMoved, filledVm, PAGE, start, switchAfter, type Toy, type ToyOptions } from './toy-migration.js';

describe('a guest that cannot be resumed when a switchover is given up ends the migration, and that is what it says', () => {
  test.each<readonly [string, (toy: Toy) => void]>([
    ['the link lost with the guest paused', (toy) => toy.link.cut()],
    ['the bound passed', () => {}],
  ])('%s', async (_, obstacle) => {
    const source = filledVm();
    source.devices = [new FaultyDevice('uart', Uint8Array.of(1), { hangSave: true, onSave: () => obstacle(toy) })];
    source.onResume = () => {
      toy.migration.cancel('enough');
      throw new Error('no virtual CPU');
    };
    const destination = new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart')] });
    const toy: Toy = start({ source, destination });
    const ends = await toy.settled();
    expect([ends.code, ends.receivedCode]).toEqual(['GODWIT_VM_FAILED', 'GODWIT_VM_FAILED']);
    expect(ends.sent).toMatchObject({ reason: { message: expect.stringContaining('no virtual CPU') } });
    expect(toy.migration.state).toBe('failed');
    expect([source.running, source.resumes, destination.running]).toEqual([false, 1, false]);
    expect([toy.migration.ownership, toy.incoming.ownership]).toEqual(['kept', 'abandoned']);
  });
});

test('what the destination has of a round that was given up is not taken for what it is to get of the next one', async () => {
  const source = filledVm();
  const cuts: string[] = [];
  const cut = (name: string, delivered: boolean) => {
    cuts.push(name);
    toy.link.cut({ delivered });
    return undefined;
  };
  source.onPause = () => {
    if (cuts.length > 0) return;
    for (const page of [3, 9]) source.deviceWrite(0, page * PAGE, Uint8Array.of(1));
  };
  // The first thing that the guest does when it runs again.
  source.onResume = () => source.deviceWrite(0, 3 * PAGE, Uint8Array.of(2));
  const toy: Toy = start({
    source,
    migrate: { verify: true },
    link: {
      fromSource: (frame, payload) => {
        // Pages 3 and 9 are there, and their round is not ended.
        if (frame.type === 'roundEnd' && !source.running && cuts.length === 0) return cut('the first round', true);
        // The next one has the same number; page 3 is on its way again, and does not arrive.
        if (frame.type === 'pages' && source.running && cuts.length === 1) return cut('the next round', false);
        return { frame, payload };
      },
    },
  });
  expectMoved(toy, await toy.settled());
  expect(cuts).toEqual(['the first round', 'the next round']);
  expect([source.resumes, toy.destination.memory.blocks[0]?.bytes[3 * PAGE]]).toEqual([1, 2]);
});

/** The first `save` hangs until the switchover is given up; the next one does not. Notes frames and what becomes of the guest. */
function hangingOnce(options: ToyOptions = {}, ignores = false) {
  const steps: string[] = [];
  const source = filledVm();
  let saves = 0;
  const device = Object.assign(new FaultyDevice('uart', Uint8Array.of(1)), {
    async *save(signal?: AbortSignal) {
      yield Uint8Array.of(1);
      if (++saves > 1) return;
      await new Promise<void>((resolve) => {
        signal?.addEventListener('abort', () => {
          if (!ignores) resolve();
          else void toy.clock.sleep(5000).then(resolve);
        });
      });
    },
  });
  source.devices = [device];
  source.onResume = () => void steps.push(`resume at ${toy.clock.now()}`);
  const toy: Toy = start({
    source,
    destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart')] }),
    ...options,
    link: {
      fromSource: (frame, payload) => {
        if (frame.type === 'back' || frame.type === 'switchover') steps.push(`${frame.type} ${frame.attempt}`);
        return { frame, payload };
      },
      ...options.link,
    },
    migrate: { pauseLimitMs: 200, progressIntervalMs: 0, ...options.migrate },
  });
  return { toy, steps };
}

describe('a switchover that is given up', () => {
  test('runs the guest first and tells the destination then; the next one is another attempt, and bears its number', async () => {
    const { toy, steps } = hangingOnce();
    const ends = await toy.settled();
    expectMoved(toy, ends);
    expect(ends.sent).toMatchObject({ value: { attempts: [{ attempt: 1, term: 'deviceMs', pausedMs: 200 }] } });
    // The next one is not made before half a second has passed.
    expect(toy.clock.now()).toBeGreaterThanOrEqual(700);
    expect(steps).toEqual(['resume at 200', 'back 1', 'switchover 2']);
    expect(toy.events.filter(({ type }) => type === 'went-back')).toEqual([
      {
        type: 'went-back',
        attempt: 1,
        term: 'deviceMs',
        elapsedMs: 200,
        limitMs: 200,
        reason: expect.objectContaining({ code: 'GODWIT_SWITCHOVER_OVERRAN' }),
      },
    ]);
    const order = toy.events.flatMap((event) =>
      event.type === 'ownership' || event.type === 'state' || event.type === 'went-back' ? [event] : [],
    );
    const back = order.findIndex(({ type }) => type === 'went-back');
    expect(order.slice(back - 1, back + 2)).toMatchObject([
      { ownership: 'running', previous: 'paused' },
      { attempt: 1 },
      { state: 'active', previous: 'device' },
    ]);
  });

  test('waits 20 ms for a device that does not notice, and not longer', async () => {
    const { toy, steps } = hangingOnce({}, true);
    expectMoved(toy, await toy.settled());
    expect(steps).toEqual(['resume at 220', 'back 1', 'switchover 2']);
    // The device was still saving until then.
    expect(toy.clock.now()).toBeGreaterThanOrEqual(5200);
  });

  test('still owes what the last harvest found and nobody has sent', async () => {
    const source = filledVm();
    source.onPause = () => {
      if (source.pauses > 1) return;
      for (let page = 1; page < 64; page += 2) source.deviceWrite(0, page * PAGE, new Uint8Array(PAGE).fill(page));
    };
    const toy: Toy = start({
      source,
      // A page takes 41 ms: these would take a second.
      link: { bytesPerSecond: 100_000 },
      migrate: { pauseLimitMs: 200, policy: switchAfter(1), progressIntervalMs: 0 },
    });
    expectMoved(toy, await toy.settled());
    const backs = toy.events.flatMap((event) => (event.type === 'went-back' ? [event.term] : []));
    expect([backs, source.resumes]).toEqual([['harvestMs'], 1]);
  });
});

describe('a destination that is told to go back', () => {
  const afterBack = (answer: readonly Frame[]): { readonly answers: Answers } => {
    let backs = 0;
    return {
      answers: (frame) => {
        // Never ready for the first attempt.
        if (frame.type === 'switchover' && frame.attempt === 1) return [];
        return frame.type === 'back' && backs++ === 0 ? answer : undefined;
      },
    };
  };
  const options = { pauseLimitMs: 200, progressIntervalMs: 0, policy: switchAfter(2), reconnectTimeoutMs: 1000 };

  test('and does not answer: the link counts as lost, and the guest runs on', async () => {
    const { answers } = afterBack([]);
    const lost: string[] = [];
    const source = filledVm();
    const limits = { ...options, handshakeTimeoutMs: 3000 };
    const clock = new VirtualClock();
    const { code, migration } = await play(answers, { ...limits, clock }, source, (made) => {
      made.subscribe((event) => {
        if (event.type === 'link-lost') lost.push(`${clock.now()}: ${event.reason.message}`);
      });
    });
    // After the wait, another second: the peer may have told why.
    expect(lost).toEqual([
      '4210: the destination has not acknowledged that a switchover was given up within handshakeTimeoutMs (3000 ms): the link counts as lost',
    ]);
    // The played destination takes one connection.
    expect([code, source.running, source.resumes, migration.ownership]).toEqual([expect.any(String), true, 1, 'kept']);
  });

  test('and answers about another attempt is wrong, and the guest stays', async () => {
    const { answers } = afterBack([{ type: 'backAck', attempt: 2, deviceResets: [] }]);
    const source = filledVm();
    const { result, migration } = await play(answers, options, source);
    expect(result).toMatchObject({
      reason: { code: 'GODWIT_PROTOCOL', message: '"backAck" is for attempt 2; attempt 1 was given up' },
    });
    expect([source.running, source.resumes, migration.ownership]).toEqual([true, 1, 'kept']);
  });

  test.each([
    ['with a reset of its device', 'everything', 1],
    ['without', 'stop-state', 0],
  ] as const)("%s: the source's device begins anew as often", async (_, backVoids, resets) => {
    const [from, to] = [new IterativeDevice(backVoids), new IterativeDevice(backVoids)];
    const source = filledVm();
    source.devices = [from];
    const toy: Toy = start({
      source,
      destination: new ToyVm(BLOCKS, { running: false, devices: [to] }),
      migrate: { pauseLimitMs: 200, policy: switchAfter(2), progressIntervalMs: 0 },
      link: {
        fromDestination: (frame, payload) =>
          frame.type === 'ready' && frame.attempt === 1 ? undefined : { frame, payload },
      },
    });
    expectMoved(toy, await toy.settled());
    expect(from.restarts).toBeGreaterThanOrEqual(resets);
    expect([to.resets, from.restarts]).toEqual([from.restarts, to.resets]);
    expect(to.loaded).toEqual(from.yielded);
  });
});
