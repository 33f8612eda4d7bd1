import { type DirtyBitmaps, type FreePages, receive } from '@godwit/core';
import { memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, filledVm, PAGE, start, switchAfter, type Toy, type ToyOptions } from './toy-migration.js';

/** Pages of `filledVm` with contents: every second one. The guest has freed those from 32 on. */
const FREED = [32, 34, 36, 60, 62];

/** A VM whose guest names its free pages when it is asked. */
function naming(collect: FreePages['collect'], vm = filledVm()): ToyVm {
  return Object.assign(vm, { freePages: { name: 'toy balloon', collect } });
}

async function names(into: DirtyBitmaps): Promise<void> {
  for (const page of FREED) into.at(0).set(page);
}

function begin(source: ToyVm, options: ToyOptions = {}): Toy {
  return start({ source, ...options, migrate: { policy: switchAfter(1), verify: true, ...options.migrate } });
}

const firstByte = (vm: ToyVm, page: number) => vm.memory.blocks[0]?.view(page * PAGE, 1)[0];
const hinted = ({ events }: Toy) => events.filter(({ type }) => type === 'free-pages');

describe.each([0, 2])('free pages, over %i page channels', (pageChannels) => {
  test('are not sent, are zeros at the destination, and verify leaves them out', async () => {
    const toy = begin(naming(names), { migrate: { pageChannels } });
    const { sent, code } = await toy.settled();
    expect(code).toBeUndefined();
    if (sent.status === 'rejected') throw sent.reason;
    expect(sent.value.pages.raw).toBe(32 - FREED.length);
    expect(sent.value.verifiedPages).toBeGreaterThanOrEqual(32 - FREED.length);
    for (let page = 0; page < 64; page += 2) {
      const expected = FREED.includes(page) ? 0 : page + 1;
      expect([page, firstByte(toy.destination, page)]).toEqual([page, expected]);
      expect([page, firstByte(toy.source, page)]).toEqual([page, page + 1]);
    }
    expect(hinted(toy)).toEqual([{ type: 'free-pages', name: 'toy balloon', pages: 5, ms: 0, complete: true }]);
  });

  test('are sent once the guest has written them again, whenever that was', async () => {
    let written = 0;
    const source = naming(async (into) => {
      await names(into);
      // The guest takes one back at once, before the engine has seen that it was free.
      source.write(0, 32 * PAGE, Uint8Array.of(0xa1));
    });
    const toy = begin(source, { migrate: { pageChannels, policy: switchAfter(3) } });
    toy.migration.subscribe((event) => {
      if (event.type === 'round-start' && event.round === 1) source.write(0, 34 * PAGE, Uint8Array.of(0xa2));
      if (event.type === 'round' && event.round.round === 2 && written++ === 0)
        source.write(0, 62 * PAGE, Uint8Array.of(0xa3));
    });
    expect((await toy.settled()).code).toBeUndefined();
    expect([32, 34, 36, 60, 62].map((page) => firstByte(toy.destination, page))).toEqual([0xa1, 0xa2, 0, 0, 0xa3]);
  });

  test('that the destination has contents of are zeros there too', async () => {
    const destination = new ToyVm(BLOCKS, { running: false });
    destination.deviceWrite(0, 34 * PAGE, new Uint8Array(PAGE).fill(0xee));
    const toy = begin(naming(names), { destination, migrate: { pageChannels } });
    expect((await toy.settled()).code).toBeUndefined();
    expect(firstByte(destination, 34)).toBe(0);
  });
});

test('are asked for with the trackers started, and not again in later rounds', async () => {
  const asked: boolean[] = [];
  const source = naming(async (into) => {
    let logged = false;
    try {
      await source.software.harvest(into);
      logged = true;
    } catch {
      // Not started.
    }
    asked.push(logged);
  });
  const toy = begin(source, { migrate: { policy: switchAfter(3) } });
  expect((await toy.settled()).code).toBeUndefined();
  expect(asked).toEqual([true]);
});

test('a guest that does not answer has its time, and what it has named by then is not sent', async () => {
  const clock = new VirtualClock();
  let late: DirtyBitmaps | undefined;
  let stopped = false;
  const source = naming(async (into, signal) => {
    into.at(0).set(60);
    late = into;
    await new Promise((_, reject) =>
      signal.addEventListener('abort', () => {
        stopped = true;
        reject(signal.reason);
      }),
    );
  });
  const toy = begin(source, { clock, migrate: { freePagesTimeoutMs: 250 } });
  toy.migration.subscribe((event) => {
    // An owner that goes on after its time.
    if (event.type === 'round-start') late?.at(0).setRange(0, 64);
  });
  expect((await toy.settled()).code).toBeUndefined();
  expect(hinted(toy)).toEqual([{ type: 'free-pages', name: 'toy balloon', pages: 1, ms: 250, complete: false }]);
  expect(stopped).toBe(true);
  expect([0, 60, 62].map((page) => firstByte(toy.destination, page))).toEqual([1, 0, 63]);
});

test('of an owner that fails everything is sent, with a warning', async () => {
  const toy = begin(
    naming(async (into) => {
      await names(into);
      throw new Error('the queue is broken');
    }),
  );
  const { sent } = await toy.settled();
  expect(sent.status).toBe('fulfilled');
  expect(toy.source.memory.firstDifference(toy.destination.memory)).toBeUndefined();
  expect(toy.events).toContainEqual({
    ...{ type: 'warning', code: 'GODWIT_VM_FAILED' },
    message: expect.stringContaining('"toy balloon" failed: the queue is broken. All pages are sent'),
  });
  expect(hinted(toy)).toEqual([]);
});

test('are not asked for where there is no time for it', async () => {
  const source = naming(() => Promise.reject(new Error('asked')));
  const toy = begin(source, { migrate: { freePagesTimeoutMs: 0 } });
  expect((await toy.settled()).code).toBeUndefined();
  expect(toy.source.memory.firstDifference(toy.destination.memory)).toBeUndefined();
});

test('a migration is cancelled while the guest is asked', async () => {
  const source = naming((_, signal) => new Promise((resolve) => signal.addEventListener('abort', () => resolve())));
  const toy = begin(source);
  toy.migration.subscribe((event) => {
    if (event.type === 'state' && event.state === 'active') void toy.clock.sleep(10).then(() => toy.migration.cancel());
  });
  expect((await toy.settled()).code).toBe('GODWIT_CANCELLED');
  expect(source.running).toBe(true);
});

test('a page that a tracker could not follow is sent', async () => {
  const source = naming(names);
  const tracker = source.software;
  const harvest = tracker.harvest.bind(tracker);
  let failed = false;
  tracker.harvest = async (into) => {
    if (failed) return harvest(into);
    failed = true;
    throw new Error('the log was lost');
  };
  const toy = begin(source, { migrate: { policy: switchAfter(2) } });
  expect((await toy.settled()).code).toBeUndefined();
  expect(toy.source.memory.firstDifference(toy.destination.memory)).toBeUndefined();
});

test('of a destination that was restarted, verify compares those that were written since', async () => {
  const clock = new VirtualClock();
  const [first, second] = [memoryLink({ clock }), memoryLink({ clock })];
  let there = first;
  const source = naming(names);
  const toy = begin(source, {
    clock,
    listener: second.listener,
    connector: { connect: (request, signal) => there.connector.connect(request, signal) },
    migrate: { policy: switchAfter(2), reconnectTimeoutMs: 8000 },
  });
  const died = receive(first.listener, {
    prepare: () => new ToyVm(BLOCKS, { running: false }),
    clock,
    reconnectTimeoutMs: 0,
  });
  died.result.catch(() => {});
  let restarted = false;
  toy.migration.subscribe((event) => {
    if (event.type === 'round' && there === first) {
      there = second;
      first.cut();
    }
    restarted ||= event.type === 'reconnected' && event.restarted;
    if (restarted && event.type === 'round-start' && source.running) source.write(0, 34 * PAGE, Uint8Array.of(0xa2));
  });
  const { code, sent } = await toy.settled();
  expect(code).toBeUndefined();
  expect(restarted).toBe(true);
  expect(sent).toMatchObject({ value: { verifiedPages: 32 - FREED.length + 1 } });
  expect([firstByte(toy.destination, 34), firstByte(toy.destination, 36)]).toEqual([0xa2, 0]);
});
