import { localAuthority } from '@godwit/core';
import { FaultyDevice, type FrameTap, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { held } from './played-stream.js';
import { ToyFaults } from './toy-faults.js';
import {
  BLOCKS,
  expectMoved,
  expectStayed,
  filledVm,
  PAGE,
  start,
  type Toy,
  type ToyOptions,
} from './toy-migration.js';

/** Pages that the guest writes in its last moment: they are missing where it arrives. */
const LAST_WRITTEN = [1, 2, 3, 4, 5, 6, 7, 8, 40];

/** A migration by post-copy of a guest that writes until it is paused. */
function byPostcopy(faults: ToyFaults, options: ToyOptions = {}): Toy {
  const { source = filledVm() } = options;
  source.onPause = () => {
    for (const page of LAST_WRITTEN) source.deviceWrite(0, page * PAGE, new Uint8Array(PAGE).fill(page + 100));
  };
  const toy = start({
    ...options,
    source,
    migrate: { postcopy: true, ...options.migrate },
    receive: { faults, ...options.receive },
  });
  toy.migration.startPostcopy();
  return toy;
}

const wentBack = ({ events }: Toy) => events.filter(({ type }) => type === 'went-back').length;

test('a guest runs before its pages are there, and the source lets go once none is missing', async () => {
  const toy = byPostcopy(new ToyFaults({ touched: [5] }));
  expectMoved(toy, await toy.settled());
  expect([wentBack(toy), toy.migration.ownership, toy.incoming.ownership]).toEqual([0, 'released', 'settled']);
  // The pause is for the missing pages to be named, and not for any to be sent.
  const rounds = toy.events.flatMap((event) => (event.type === 'round' ? [event.round.phase] : []));
  expect(rounds.length).toBeGreaterThan(0);
  expect(rounds).not.toContain('stop-and-copy');
});

describe('a link that is lost with the guest paused and "switchover" sent', () => {
  /** Cuts the link at the first frame of the destination for which `is`; it is lost. */
  function cutAt(is: (type: string, round: number | undefined) => boolean, touched: readonly number[]) {
    const faults = new ToyFaults({ touched });
    const source = filledVm();
    source.devices = [new FaultyDevice('uart')];
    // Its load takes long enough for all that is asked for meanwhile.
    const uart = Object.assign(new FaultyDevice('uart'), {
      async load(state: AsyncIterable<Uint8Array>) {
        for await (const _ of state);
        await toy.clock.sleep(50);
      },
    });
    let cuts = 0;
    const tap = (): FrameTap => (frame, payload) => {
      if (cuts > 0 || !is(frame.type, 'round' in frame ? frame.round : undefined)) return { frame, payload };
      cuts++;
      toy.link.cut();
      return undefined;
    };
    const toy: Toy = byPostcopy(faults, {
      source,
      destination: new ToyVm(BLOCKS, { running: false, devices: [uart] }),
      link: { fromSource: tap(), fromDestination: tap() },
      migrate: { pauseLimitMs: 60_000 },
    });
    return { toy, faults, cuts: () => cuts };
  }

  test('is made anew: the destination names what it lacks, and the guest is not run in between', async () => {
    const { toy, faults, cuts } = cutAt((type) => type === 'ready', [5]);
    expectMoved(toy, await toy.settled());
    expect([cuts(), wentBack(toy), toy.source.resumes]).toEqual([1, 0, 0]);
    expect(faults.steps.filter((step) => step !== 'end')).toEqual(['serve', 'served']);
  });

  test('may take pages with it that were sent ahead, and that nobody asks for: they come with the rest', async () => {
    let answers = 0;
    // Two equal steps are a guess: pages follow the answer to the third request, in a frame of their own.
    const { toy, cuts } = cutAt((type, round) => type === 'pages' && round === 0 && ++answers === 4, [1, 2, 3]);
    expectMoved(toy, await toy.settled());
    expect([cuts(), wentBack(toy)]).toEqual([1, 0]);
  });
});

test('a switchover that is given up while missing pages are only about to be served: none comes before that is undone', async () => {
  const ready = held();
  let calls = 0;
  const faults = new ToyFaults({ ready: () => (++calls === 1 ? ready.promise : Promise.resolve()) });
  const toy = byPostcopy(faults, { migrate: { pauseLimitMs: 200, reconnectTimeoutMs: 60_000 } });
  toy.migration.subscribe((event) => {
    // Long after the guest runs again, and the source has come back.
    if (event.type === 'went-back' && event.attempt === 1) void toy.clock.sleep(5_000).then(() => ready.release());
  });
  expectMoved(toy, await toy.settled());
  expect(wentBack(toy)).toBeGreaterThan(0);
  expect(faults.steps.slice(0, 3)).toEqual(['serve', 'served', 'undo']);
});

test('state that would have to be loaded before the missing pages are known ends it, with the guest at the source', async () => {
  const source = filledVm();
  source.devices = [new FaultyDevice('uart', new Uint8Array(100_000).fill(1))];
  const uart = new FaultyDevice('uart');
  const toy = byPostcopy(new ToyFaults(), {
    source,
    destination: new ToyVm(BLOCKS, { running: false, devices: [uart] }),
    receive: { maximumDeviceState: 10_000 },
  });
  const ends = await toy.settled();
  expectStayed(toy, ends, 'GODWIT_LIMIT_EXCEEDED');
  expect(ends.sent).toMatchObject({ reason: { message: expect.stringContaining('10000 bytes') } });
  expect(uart.loads).toBe(0);
});

test('"recover" of a destination that lacks pages is refused: if the source is dead, so are they', async () => {
  const toy: Toy = byPostcopy(new ToyFaults(), {
    link: {
      fromSource: (frame, payload) => {
        if (frame.type !== 'go') return { frame, payload };
        if (lost++ === 0) recovering = toy.incoming.recover({ sourceIsDead: true });
        return { frame, payload };
      },
    },
  });
  let lost = 0;
  let recovering: Promise<void> | undefined;
  const ends = await toy.settled();
  await expect(recovering).rejects.toMatchObject({
    code: 'GODWIT_PAGES_MISSING',
    message: expect.stringMatching(/^\d+ pages of the guest are only at the source: if it is dead they are lost/),
  });
  // It was wrong, and nothing has come of it.
  expectMoved(toy, ends);
});

test('"recover" of the source as nothing is missing any more: the guest was recovered or released, and the result says which', async () => {
  const outcomes = new Set<string>();
  for (let delay = 0; delay < 24; delay++) {
    const owner = held();
    let recovering: Promise<unknown> = Promise.resolve();
    let cut = false;
    const toy: Toy = byPostcopy(new ToyFaults(), {
      migrate: {
        authority: {
          ...localAuthority,
          mayRun: async () => {
            await owner.promise;
            return true;
          },
        },
      },
      link: {
        fromDestination: (frame, payload) => {
          if (frame.type === 'running') {
            cut = true;
            toy.link.cut();
            return undefined;
          }
          if (frame.type === 'whole' && cut) void ticks(delay).then(() => owner.release());
          return { frame, payload };
        },
      },
    });
    toy.migration.subscribe((event) => {
      if (event.type !== 'state' || event.state !== 'settling') return;
      recovering = Promise.allSettled([toy.migration.recover({ destinationIsDead: true })]);
    });
    const { code } = await toy.settled();
    await recovering;
    outcomes.add(`${toy.migration.ownership}: ${code ?? 'completed'}`);
  }
  expect([...outcomes].sort()).toEqual(['recovered: GODWIT_RECOVERED', 'released: completed']);
});

async function ticks(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await Promise.resolve();
}
