import {
  type Frame,
  type IncomingMigration,
  type MigrateOptions,
  migrate,
  type ReceiveOptions,
  receive,
} from '@godwit/core';
import { FaultyDevice, type FrameTap, memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, codeOf, expectMoved, filledVm, start, states, type Toy, type ToyOptions } from './toy-migration.js';

/** Cuts the link when the frame is on its way, in either direction, as often as `times`. */
function cutting(type: Frame['type'], times = 1, delivered = false) {
  let left = times;
  let link: Toy['link'] | undefined;
  const tap: FrameTap = (frame, payload) => {
    if (frame.type !== type || left === 0) return { frame, payload };
    left--;
    link?.cut({ delivered });
    return undefined;
  };
  return (options: ToyOptions = {}): Toy => {
    const toy = start({ ...options, link: { fromSource: tap, fromDestination: tap } });
    link = toy.link;
    return toy;
  };
}

function guestAt(vm: ToyVm, other: ToyVm): void {
  expect([vm.running, other.running]).toEqual([true, false]);
}

describe('after go', () => {
  test.each(['go', 'running'] as const)('"%s" is lost again and again: the two settle it', async (type) => {
    const toy = cutting(type, 4)();
    const ends = await toy.settled();
    expectMoved(toy, ends);
    expect(states(toy.events)).toEqual(['setup', 'active', 'device', 'settling', 'completed']);
    expect(toy.source.resumes).toBe(0);
    expect(toy.destination.resumes).toBe(1);
    expect([toy.migration.ownership, toy.incoming.ownership]).toEqual(['released', 'settled']);
  });

  test('no answer within switchoverTimeoutMs, over a link that seems alive: it is asked over a new one', async () => {
    let lost = 0;
    const toy = start({
      link: {
        fromDestination: (frame, payload) =>
          frame.type === 'running' && lost++ === 0 ? undefined : { frame, payload },
      },
    });
    expectMoved(toy, await toy.settled());
    expect(toy.clock.now()).toBeGreaterThan(30_000);
    expect(toy.clock.now()).toBeLessThan(32_000);
    const lostLinks = toy.events.flatMap((event) => (event.type === 'link-lost' ? [event.reason.code] : []));
    expect(lostLinks).toEqual(['GODWIT_TIMEOUT']);
  });

  test('a destination that says that pages are missing, though all were sent, is asked again', async () => {
    let lies = 1;
    const toy = start({
      link: {
        fromDestination: (frame, payload) => {
          if (frame.type === 'running') {
            toy.link.cut();
            return undefined;
          }
          if (frame.type !== 'resumed' || lies-- <= 0) return { frame, payload };
          return { frame: { ...frame, state: 'incomplete' }, payload };
        },
      },
    });
    expectMoved(toy, await toy.settled());
    expect(lies).toBe(-1);
    expect(states(toy.events)).toEqual(['setup', 'active', 'device', 'settling', 'completed']);
    expect(toy.events.filter(({ type }) => type === 'link-lost')).toHaveLength(1);
  });

  test('"released" is lost: the guest has moved, and the destination says what it does not know', async () => {
    const toy = cutting('released')();
    expectMoved(toy, await toy.settled());
    expect([toy.migration.ownership, toy.incoming.ownership]).toEqual(['released', 'untold']);
    const said = toy.incomingEvents.filter(({ type }) => type === 'running' || type === 'warning');
    expect(said).toEqual([
      { type: 'running', resumeMs: 0 },
      { type: 'warning', code: 'GODWIT_LINK_LOST', message: expect.stringContaining('settleTimeoutMs (30000 ms)') },
    ]);
  });

  test('a destination that cannot start the guest says so: nobody guesses', async () => {
    const destination = new ToyVm(BLOCKS, { running: false });
    destination.onResume = () => {
      throw new Error('no vCPU');
    };
    const toy = cutting('go')({ destination });
    const ends = await toy.settled();
    expect([ends.code, ends.receivedCode]).toEqual(['GODWIT_OWNERSHIP_UNKNOWN', 'GODWIT_VM_FAILED']);
    expect(ends.sent).toMatchObject({ reason: { message: expect.stringContaining('no vCPU') } });
    expect([toy.migration.ownership, toy.incoming.ownership]).toEqual(['unknown', 'stranded']);
    expect(toy.source.resumes).toBe(0);
    // The embedder knows that it will not run there.
    await toy.migration.recover({ destinationIsDead: true });
    guestAt(toy.source, destination);
  });

  /** A migration whose link goes down at a frame, for good or until it is put up again. */
  async function downAt(
    type: Frame['type'],
    options: { migrate?: MigrateOptions; receive?: Partial<ReceiveOptions> } = {},
  ) {
    const clock = new VirtualClock();
    const line = { down: false };
    const source = filledVm();
    const destination = new ToyVm(BLOCKS, { running: false });
    let reached: () => void = () => {};
    const arrived = new Promise<void>((resolve) => {
      reached = resolve;
    });
    const inner = memoryLink({
      clock,
      fromSource: (frame, payload) => tap(frame, payload),
      fromDestination: (frame, payload) => tap(frame, payload),
    });
    let cut = false;
    const tap = (frame: Frame, payload: Uint8Array | undefined) => {
      if (frame.type !== type || cut) return { frame, payload };
      cut = true;
      line.down = true;
      inner.cut();
      reached();
      return undefined;
    };
    const connector = {
      connect: (...args: Parameters<typeof inner.connector.connect>) => {
        return line.down ? Promise.reject(new Error('no route to host')) : inner.connector.connect(...args);
      },
    };
    const incoming = receive(inner.listener, { prepare: () => destination, clock, ...options.receive });
    const migration = migrate(source, connector, { clock, ...options.migrate });
    await arrived;
    return { clock, line, source, destination, incoming, migration, inner };
  }

  test.each([
    ['go', 'ready', 'settled'],
    ['running', 'untold', 'untold'],
  ] as const)(
    'down for long at "%s": the source says so, and settles when it is told to',
    async (type, before, after) => {
      const run = await downAt(type);
      const { migration, incoming, clock, line, source, destination } = run;
      await expect(migration.result).rejects.toMatchObject({
        code: 'GODWIT_OWNERSHIP_UNKNOWN',
        message: expect.stringMatching(/within settleTimeoutMs \(30000 ms\).*no route to host.*settle\(\).*recover\(/),
      });
      await clock.sleep(60_000);
      expect([migration.ownership, incoming.ownership]).toEqual(['unknown', before]);
      expect(source.resumes).toBe(0);
      expect(migration.cancel()).toBe(false);
      await expect(migration.settle()).rejects.toMatchObject({ code: 'GODWIT_OWNERSHIP_UNKNOWN' });
      expect(migration.ownership).toBe('unknown');
      line.down = false;
      await migration.settle();
      expect(migration.ownership).toBe('released');
      await incoming.result;
      expect(incoming.ownership).toBe(after);
      guestAt(destination, source);
      expect(destination.resumes).toBe(1);
      expect(run.inner.openStreams).toBe(0);
      await expect(migration.settle()).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
      await expect(migration.recover({ destinationIsDead: true })).rejects.toMatchObject({
        code: 'GODWIT_INVALID_STATE',
      });
      expect(source.resumes).toBe(0);
    },
  );

  test('recover while it is settling: the guest runs here at once, and the migration says why', async () => {
    const { migration, source, clock, incoming } = await downAt('go');
    await expect(migration.recover({ destinationIsDead: true })).rejects.toMatchObject({
      code: 'GODWIT_INVALID_STATE',
    });
    await clock.sleep(5000);
    expect(migration.state).toBe('settling');
    expect(migration.cancel()).toBe(false);
    await migration.recover({ destinationIsDead: true });
    expect(source.running).toBe(true);
    await expect(migration.result).rejects.toMatchObject({ code: 'GODWIT_RECOVERED' });
    expect(migration.ownership).toBe('recovered');
    expect(clock.now()).toBeLessThan(7000);
    incoming.cancel();
    await Promise.allSettled([incoming.result]);
  });

  test('recover wants to hear it in so many words', async () => {
    const { migration, incoming, clock } = await downAt('go');
    await clock.sleep(5000);
    const nothing = {} as { destinationIsDead: true; sourceIsDead: true };
    await expect(migration.recover(nothing)).rejects.toMatchObject({ code: 'GODWIT_INVALID_ARGUMENT' });
    await expect(incoming.recover(nothing)).rejects.toMatchObject({ code: 'GODWIT_INVALID_ARGUMENT' });
    expect([migration.ownership, incoming.ownership]).toEqual(['handedOver', 'ready']);
    incoming.cancel();
    await Promise.allSettled([migration.result, incoming.result]);
  });

  test('the destination gives up while `go` is lost: the source hears its reason, and stays paused', async () => {
    const { migration, incoming, source, line, clock } = await downAt('go');
    await clock.sleep(1000);
    expect(incoming.cancel('no room')).toBe(true);
    line.down = false;
    const [sent] = await Promise.allSettled([migration.result]);
    expect(codeOf(sent as PromiseSettledResult<unknown>)).toBe('GODWIT_OWNERSHIP_UNKNOWN');
    expect(sent).toMatchObject({ reason: { message: expect.stringContaining('no room') } });
    expect(source.running).toBe(false);
    await migration.recover({ destinationIsDead: true });
    expect(source.running).toBe(true);
    await Promise.allSettled([incoming.result]);
  });

  test('a destination that knows nothing of it does not run the guest, nor begin anew', async () => {
    const clock = new VirtualClock();
    const first = memoryLink({
      clock,
      fromSource: (frame, payload) => {
        if (frame.type !== 'go') return { frame, payload };
        link = second;
        first.cut();
        return undefined;
      },
    });
    const second = memoryLink({ clock });
    let link = first;
    const source = filledVm();
    const lost = receive(first.listener, { prepare: () => new ToyVm(BLOCKS, { running: false }), clock });
    const other = new ToyVm(BLOCKS, { running: false });
    const waiting = receive(second.listener, { prepare: () => other, clock });
    const migration = migrate(source, { connect: (...args) => link.connector.connect(...args) }, { clock });
    await expect(migration.result).rejects.toMatchObject({
      code: 'GODWIT_OWNERSHIP_UNKNOWN',
      cause: { code: 'GODWIT_UNKNOWN_MIGRATION', remote: true },
    });
    expect([source.running, other.running, waiting.state]).toEqual([false, false, 'none']);
    expect(clock.now()).toBeLessThan(5000);
    for (const incoming of [lost, waiting]) incoming.cancel();
    await Promise.allSettled([lost.result, waiting.result]);
  });
});

describe('a destination that is ready', () => {
  /** The source's process dies, for the destination as a lost link, when it would say go. */
  async function orphaned(): Promise<{ toy: Toy; incoming: IncomingMigration }> {
    const toy = cutting(
      'go',
      1,
    )({
      migrate: { settleTimeoutMs: 0, progressIntervalMs: 0 },
      receive: { progressIntervalMs: 0 },
    });
    await toy.migration.result.catch(() => {});
    await toy.clock.sleep(3_600_000);
    expect(toy.incoming.ownership).toBe('ready');
    return { toy, incoming: toy.incoming };
  }

  test('waits, and runs the guest on the word that the source is dead', async () => {
    const { toy, incoming } = await orphaned();
    await incoming.recover({ sourceIsDead: true });
    const { vm } = await incoming.result;
    expect(vm).toBe(toy.destination);
    expect(toy.destination.running).toBe(true);
    expect([incoming.state, incoming.ownership]).toEqual(['completed', 'recovered']);
    expect(incoming.cancel()).toBe(false);
    // Whoever asks later is told.
    await toy.migration.settle();
    expect(toy.migration.ownership).toBe('released');
    await expect(incoming.recover({ sourceIsDead: true })).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
  }, 30_000);

  test('waits until it is cancelled', async () => {
    const { toy, incoming } = await orphaned();
    expect(incoming.cancel('it will not come back')).toBe(true);
    await expect(incoming.result).rejects.toMatchObject({ code: 'GODWIT_CANCELLED' });
    expect(toy.destination.abandoned).toMatchObject({ code: 'GODWIT_CANCELLED' });
    await expect(toy.migration.settle()).rejects.toMatchObject({
      code: 'GODWIT_OWNERSHIP_UNKNOWN',
      message: expect.stringContaining('it will not come back'),
    });
  }, 30_000);

  test.each([
    ['ready', []],
    ['verified', [0]],
    ['digests', [0]],
  ] as const)(
    'takes the guest later when the link is lost at "%s", and never while the source may run it',
    async (type, resumed) => {
      const resumedAt: number[] = [];
      const source = filledVm();
      const toy = cutting(type)({ source, migrate: { verify: true } });
      source.onResume = () => void resumedAt.push(toy.clock.now());
      toy.destination.onResume = () => expect(toy.migration.ownership).toBe('handedOver');
      expectMoved(toy, await toy.settled());
      // A `ready` that was lost is asked for again; a comparison that was is not, and the guest runs at once.
      expect(resumedAt).toEqual(resumed);
      expect(toy.incomingEvents.filter((event) => event.type === 'source-may-run')).toHaveLength(1);
      expect(toy.clock.now()).toBeLessThan(3000);
    },
  );

  test.each(['verified', 'digests'] as const)(
    'hears that the guest stays at the source, where that is decided while the link is lost at "%s"',
    async (type) => {
      const source = filledVm();
      const toy = cutting(type)({ source, migrate: { verify: true } });
      source.onResume = () => void toy.migration.cancel('enough');
      const ends = await toy.settled();
      expect([ends.code, ends.receivedCode]).toEqual(['GODWIT_CANCELLED', 'GODWIT_CANCELLED']);
      expect(ends.received).toMatchObject({ reason: { remote: true } });
      guestAt(source, toy.destination);
      expect([toy.migration.ownership, toy.incoming.ownership]).toEqual(['kept', 'abandoned']);
      expect(toy.destination.abandoned).toBeDefined();
      expect(toy.clock.now()).toBeLessThan(3000);
    },
  );

  test.each(['ready', 'verified', 'digests'] as const)(
    'waits for a person where the source does not come back: the link is lost at "%s"',
    async (type) => {
      const toy = cutting(type)({ migrate: { verify: true, reconnectTimeoutMs: 0 } });
      await expect(toy.migration.result).rejects.toMatchObject({ code: 'GODWIT_LINK_LOST' });
      guestAt(toy.source, toy.destination);
      expect(toy.source.resumes).toBe(1);
      await toy.clock.sleep(600_000);
      expect([toy.migration.ownership, toy.incoming.ownership]).toEqual(['kept', 'ready']);
      expect(toy.incoming.cancel()).toBe(true);
      await expect(toy.incoming.result).rejects.toMatchObject({ code: 'GODWIT_CANCELLED' });
      expect([toy.destination.running, toy.link.openStreams]).toEqual([false, 0]);
    },
  );

  test('that the link was lost while devices were loaded is no reason to run, either', async () => {
    const destination = new ToyVm(BLOCKS, { running: false });
    let loaded: () => void = () => {};
    destination.devices = [
      Object.assign(new FaultyDevice('uart'), {
        async load(state: AsyncIterable<Uint8Array>) {
          for await (const _ of state);
          toy.link.cut();
          await new Promise<void>((resolve) => {
            loaded = resolve;
          });
        },
      }),
    ];
    const source = filledVm();
    source.devices = [new FaultyDevice('uart', Uint8Array.of(1))];
    const toy: Toy = start({ source, destination, migrate: { random: () => 0.5 } });
    await toy.clock.sleep(50);
    loaded();
    await toy.clock.sleep(49);
    expect([toy.migration.ownership, toy.incoming.ownership]).toEqual(['paused', 'ready']);
    expect([source.running, destination.running]).toEqual([false, false]);
    expectMoved(toy, await toy.settled());
    expect(source.resumes).toBe(0);
  });
});
