import { type MigrateOptions, migrate, type PolicyInput, receive, withinDowntimeLimit } from '@godwit/core';
import { FaultyDevice, memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { expectMoved, expectStayed, PAGE, start, type Toy } from './toy-migration.js';

const PAGES = 256;
const RAM = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }];
const LINK = { bytesPerSecond: 1e9 };

function guest(): ToyVm {
  const vm = new ToyVm(RAM);
  for (let page = 0; page < PAGES; page++) vm.write(0, page * PAGE, new Uint8Array(PAGE).fill((page % 255) + 1));
  return vm;
}

function begin(migrate: MigrateOptions, source = guest(), devices: ToyVm['devices'] = []): Toy {
  source.devices = devices;
  return start({ source, destination: new ToyVm(RAM, { running: false, devices }), link: LINK, migrate });
}

/** Writes a page every `ms`, as a guest does that only keeps time. */
async function tick({ clock, source, migration }: Toy, ms: number): Promise<void> {
  for (let i = 0; !['failed', 'cancelled', 'completed'].includes(migration.state); i++) {
    if (source.running) source.write(0, (i % 8) * PAGE, Uint8Array.of(i, 3));
    await clock.sleep(ms);
  }
}

const never = () => ({ action: 'continue', reason: 'not yet' }) as const;
const rounds = (toy: Toy) => toy.events.filter(({ type }) => type === 'round').length;

describe('rounds that find next to nothing to send', () => {
  test('come further and further apart, up to a second', async () => {
    const toy = begin({ policy: never });
    void tick(toy, 4);
    await toy.clock.sleep(60_000);
    const before = rounds(toy);
    expect(before).toBeLessThan(130);
    await toy.clock.sleep(60_000);
    expect(rounds(toy) - before).toBeLessThanOrEqual(62);
    expect(rounds(toy) - before).toBeGreaterThan(55);
    toy.migration.cancel();
    expectStayed(toy, await toy.settled(), 'GODWIT_CANCELLED');
  });

  test('come at once when a switchover is asked for, a limit is changed, or the link is lost', async () => {
    for (const change of [
      (toy: Toy) => toy.migration.switchOver(),
      (toy: Toy) => toy.migration.adjust({ downtimeLimitMs: 100 }),
      (toy: Toy) => toy.link.cut(),
    ]) {
      const toy = begin({ policy: never, random: () => 0 });
      void tick(toy, 4);
      await toy.clock.sleep(40_350);
      const before = toy.events.filter(({ type }) => type === 'round-start').length;
      change(toy);
      await toy.clock.sleep(60);
      const after = toy.events.filter(({ type }) => type === 'round-start').length;
      expect(after).toBeGreaterThanOrEqual(before + 1);
      // Close together again.
      await toy.clock.sleep(60);
      if (toy.migration.state === 'active') {
        expect(toy.events.filter(({ type }) => type === 'round-start').length).toBeGreaterThanOrEqual(after + 3);
      }
      toy.migration.cancel();
      await toy.settled();
    }
  });

  test('the policy is asked every 100 ms all the same, with what was dirtied meanwhile', async () => {
    const asked: { readonly at: number; readonly input: PolicyInput }[] = [];
    const clock = new VirtualClock();
    const toy = start({
      clock,
      source: guest(),
      destination: new ToyVm(RAM, { running: false }),
      link: LINK,
      migrate: {
        policy: (input) => {
          asked.push({ at: clock.now(), input });
          if (input.elapsedMs >= 30_000) return { action: 'abort', reason: 'the time is over' };
          return never();
        },
      },
    });
    void tick(toy, 4);
    expectStayed(toy, await toy.settled(), 'GODWIT_NOT_CONVERGING');
    expect(clock.now()).toBeLessThan(30_200);
    const late = asked.filter(({ at }) => at > 15_000);
    for (const [i, { at }] of late.entries())
      if (i > 0) expect(at - (late[i - 1] as (typeof late)[0]).at).toBeLessThan(111);
    const between = late.filter(({ input }) => input.moment === 'in-round');
    expect(between.length).toBeGreaterThan(100);
    expect(between.some(({ input }) => input.outcome.newlyDirtyPages > 8)).toBe(true);
  });

  test('a switchover in between begins at once', async () => {
    let now = false;
    const toy = begin({ policy: () => (now ? { action: 'switchover', reason: 'now' } : never()) });
    void tick(toy, 4);
    await toy.clock.sleep(40_000);
    now = true;
    const at = toy.clock.now();
    expectMoved(toy, await toy.settled());
    expect(toy.clock.now() - at).toBeLessThan(150);
  });

  test('while a device blocks the switchover: it begins within 100 ms after that', async () => {
    let blocked = true;
    const device = {
      id: 'gpu',
      version: 1,
      async *save() {
        yield Uint8Array.of(1);
      },
      async load(state: AsyncIterable<Uint8Array>) {
        for await (const _ of state);
      },
      switchoverBlocker: () => (blocked ? 'initial bytes' : undefined),
    };
    const toy = begin({ policy: withinDowntimeLimit }, guest(), [device]);
    void tick(toy, 4);
    await toy.clock.sleep(60_000);
    expect(rounds(toy)).toBeLessThan(70);
    blocked = false;
    const at = toy.clock.now();
    expectMoved(toy, await toy.settled());
    expect(toy.clock.now() - at).toBeLessThan(150);
  });

  test('while the destination is not prepared: it begins when that is', async () => {
    let ready: () => void = () => {};
    const prepared = new Promise<void>((resolve) => {
      ready = resolve;
    });
    const device = Object.assign(new FaultyDevice('gpu'), { prepared: () => prepared });
    const toy = begin({ policy: withinDowntimeLimit }, guest(), [device]);
    void tick(toy, 4);
    await toy.clock.sleep(60_000);
    expect(rounds(toy)).toBeLessThan(75);
    ready();
    const at = toy.clock.now();
    expectMoved(toy, await toy.settled());
    expect(toy.clock.now() - at).toBeLessThan(50);
  });
});

test('a guest that begins to write brings the rounds close together again', async () => {
  const toy = begin({ policy: never });
  const over = () => ['failed', 'cancelled', 'completed'].includes(toy.migration.state);
  let pages = 1;
  void (async () => {
    for (let i = 0; !over(); ) {
      for (let k = 0; k < pages; k++, i++)
        if (toy.source.running) toy.source.write(0, (i % PAGES) * PAGE, Uint8Array.of(i, 5));
      await toy.clock.sleep(10);
    }
  })();
  await toy.clock.sleep(40_000);
  pages = 2000;
  toy.migration.adjust({ downtimeLimitMs: 1 });
  await toy.clock.sleep(1000);
  const before = rounds(toy);
  await toy.clock.sleep(1000);
  expect(rounds(toy) - before).toBeGreaterThan(50);
  toy.migration.cancel();
  await toy.settled();
});

test('a migration that ends is not made longer: the first quiet rounds are as close as ever', async () => {
  const toy = begin({
    policy: ({ outcome }) => (outcome.round >= 8 ? { action: 'switchover', reason: 'enough' } : undefined),
  });
  void tick(toy, 4);
  expectMoved(toy, await toy.settled());
  expect(toy.clock.now()).toBeLessThan(110);
});

test('an idle guest of a TiB costs next to no processor time', async () => {
  const GIB = 2 ** 30;
  const terabyte = (window = new Uint8Array(GIB)) => ({
    pageSize: 4096,
    blocks: [
      {
        id: 'ram',
        guestPhysicalAddress: 0,
        byteLength: 1024 * GIB,
        view: (offset: number, length: number) => window.subarray(offset % GIB, (offset % GIB) + length),
        populated: () => [],
        discard: () => true,
      },
    ],
  });
  const vm = (trackers: ToyVm['trackers']) => ({
    ...{ memory: terabyte(), trackers, devices: [] },
    pause: async () => {},
    resume: async () => {},
  });
  let harvests = 0;
  const tracker: ToyVm['trackers'][number] = {
    name: 'idle',
    start: async () => {},
    stop: async () => {},
    harvest: async (into) => into.at(0).set(harvests++ % 1000),
  };
  const clock = new VirtualClock();
  const link = memoryLink({ clock });
  const incoming = receive(link.listener, { prepare: () => vm([]), clock });
  const migration = migrate(vm([tracker]), link.connector, { clock, policy: never, progressIntervalMs: 0 });
  migration.result.catch(() => {});
  incoming.result.catch(() => {});
  await clock.sleep(600_000);
  expect(harvests).toBeGreaterThan(500);
  expect(harvests).toBeLessThan(700);
  migration.cancel();
  await Promise.allSettled([migration.result, incoming.result]);
});
