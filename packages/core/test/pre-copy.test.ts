import { FaultyDevice, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, filledVm, PAGE, start, states, switchAfter, type Toy } from './toy-migration.js';

/** How many pages each round began with. */
const starts = ({ events }: Toy) => events.flatMap((event) => (event.type === 'round-start' ? [event.dirtyPages] : []));

test('round 1 is all populated memory, and says so from its start', async () => {
  const clock = new VirtualClock();
  await clock.sleep(5000);
  const toy = start({ clock, migrate: { policy: switchAfter(1) } });
  expectMoved(toy, await toy.settled());
  const [begun] = toy.events.filter(({ type }) => type === 'round-start');
  expect(begun).toEqual({ type: 'round-start', round: 1, dirtyPages: 32 });
  const [round] = toy.events.flatMap((event) => (event.type === 'round' ? [event.round] : []));
  expect(round).toMatchObject({ round: 1, dirtyPages: 32, harvestMs: 0 });
});

describe('a link that is lost once a switchover is decided', () => {
  /** The link is cut with the decision of this attempt; the guest has written meanwhile. */
  function cutAtDecision(cutIn: number): Toy {
    const source = filledVm();
    let wentBack = 0;
    let cut = false;
    const toy: Toy = start({
      source,
      migrate: {
        pauseLimitMs: 50,
        random: () => 0.5,
        policy: (input) => {
          if (input.outcome.round === 1) return undefined;
          if (!cut && wentBack + 1 === cutIn) {
            cut = true;
            toy.link.cut();
          }
          return { action: 'switchover', reason: 'it is time' };
        },
      },
      link: {
        fromSource: (frame, payload) => {
          if (frame.type === 'roundEnd' && source.running) {
            source.write(0, (2 * frame.round + 1) * PAGE, Uint8Array.of(200 + frame.round));
          }
          return { frame, payload };
        },
      },
    });
    toy.migration.subscribe((event) => {
      if (event.type === 'went-back') wentBack++;
    });
    // The first pause takes too long, when the link is to be lost after going back.
    source.onPause = () => (cutIn > 1 && source.pauses === 1 ? toy.clock.sleep(200) : undefined);
    return toy;
  }

  test('costs another round with the guest running, and no pause', async () => {
    const toy = cutAtDecision(1);
    expectMoved(toy, await toy.settled());
    expect(toy.source.pauses).toBe(1);
    // The last one is the stop-and-copy.
    expect(starts(toy)).toEqual([32, 1, 1, 1]);
    expect(states(toy.events)).toEqual(['setup', 'active', 'reconnecting', 'active', 'device', 'completed']);
  });

  test('does so after going back as well', async () => {
    const toy = cutAtDecision(2);
    expectMoved(toy, await toy.settled());
    expect(toy.events.filter(({ type }) => type === 'went-back')).toHaveLength(1);
    expect(toy.source.pauses).toBe(2);
    expect(starts(toy)).toEqual([32, 1, 1, 0, 1, 1, 1]);
  });
});

test('what was sent while the guest was paused is not paid for afterwards: the bandwidth limit begins anew', async () => {
  const source = filledVm();
  let saves = 0;
  source.devices = [
    Object.assign(new FaultyDevice('uart'), {
      async *save(signal?: AbortSignal) {
        yield Uint8Array.of(1);
        if (++saves > 1) return;
        await new Promise<void>((resolve) => signal?.addEventListener('abort', () => resolve()));
      },
    }),
  ];
  source.onPause = () => {
    if (source.pauses === 1) source.deviceWrite(0, 0, new Uint8Array(40 * PAGE).fill(7));
  };
  source.onResume = () => source.deviceWrite(0, 3 * PAGE, Uint8Array.of(1));
  const toy = start({
    source,
    destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart')] }),
    migrate: { pauseLimitMs: 200, bandwidthLimit: 50_000, progressIntervalMs: 0, policy: switchAfter(2) },
  });
  expectMoved(toy, await toy.settled());
  const back = toy.events.findIndex(({ type }) => type === 'went-back');
  const [next] = toy.events.slice(back).flatMap((event) => (event.type === 'round' ? [event.round] : []));
  expect(next).toMatchObject({ dirtyPages: 1, limitMs: 0, totalMs: 0 });
});
