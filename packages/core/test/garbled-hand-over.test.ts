import {
  type Frame,
  type FrameStream,
  GodwitError,
  type HelloFrame,
  type LinkConnector,
  type MigratableDevice,
  receive,
  roundCap,
} from '@godwit/core';
import { MemoryWindows, PageBoard, PageWriter } from '@godwit/core/pages';
import { type FrameTap, memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, filledVm, PAGE, start, type Toy } from './toy-migration.js';

const never = new AbortController().signal;

describe('a frame of the hand-over that arrives as another one: the two settle it', () => {
  const garbling =
    (type: Frame['type'], into: Frame): FrameTap =>
    (frame, payload) => {
      if (frame.type !== type || garbled++ > 0) return { frame, payload };
      return { frame: into, payload };
    };
  let garbled = 0;

  test.each<readonly [string, 'fromSource' | 'fromDestination', Frame['type'], Frame]>([
    ['go', 'fromSource', 'go', { type: 'running', resumeMs: 1, sinceReadyMs: 0 }],
    ['running', 'fromDestination', 'running', { type: 'ready', attempt: 1, loadMs: 1 }],
  ])('%s', async (_, direction, type, into) => {
    garbled = 0;
    const toy = start({ link: { [direction]: garbling(type, into) } });
    const ends = await toy.settled();
    expect(garbled).toBeGreaterThan(0);
    expectMoved(toy, ends);
    expect([toy.migration.ownership, toy.incoming.ownership]).toEqual(['released', 'settled']);
  });
});

describe('a source that asks while the destination is about to end', () => {
  test('hears that the guest runs there', async () => {
    const destination = new ToyVm(BLOCKS, { running: false });
    const toy: Toy = start({
      destination,
      link: {
        fromSource: (frame, payload) => {
          if (frame.type !== 'go') return { frame, payload };
          toy.link.cut();
          void toy.incoming.recover({ sourceIsDead: true });
          return undefined;
        },
      },
    });
    destination.onResume = () => toy.clock.sleep(2000);
    expectMoved(toy, await toy.settled());
    expect([toy.migration.ownership, toy.incoming.ownership]).toEqual(['released', 'recovered']);
  });
});

test('a destination that could not start the guest says why, though the link is lost by then', async () => {
  const destination = new ToyVm(BLOCKS, { running: false });
  const toy: Toy = start({ destination });
  destination.onResume = () => {
    toy.link.cut();
    throw new Error('no virtual CPU');
  };
  const ends = await toy.settled();
  expect([ends.code, ends.receivedCode]).toEqual(['GODWIT_OWNERSHIP_UNKNOWN', 'GODWIT_VM_FAILED']);
  expect(ends.sent).toMatchObject({ reason: { message: expect.stringContaining('no virtual CPU') } });
  expect([toy.source.running, destination.running]).toEqual([false, false]);
});

test('recover ends the waiting for an answer to a go that was said again', async () => {
  let said = 0;
  const toy: Toy = start({
    link: {
      fromSource: (frame, payload) => {
        if (frame.type !== 'go') return { frame, payload };
        if (++said === 1) toy.link.cut();
        return undefined;
      },
    },
  });
  while (said < 2) await toy.clock.sleep(100);
  const before = toy.clock.now();
  await toy.migration.recover({ destinationIsDead: true });
  await expect(toy.migration.result).rejects.toMatchObject({ code: 'GODWIT_RECOVERED' });
  expect(toy.clock.now() - before).toBeLessThan(5000);
  expect(toy.source.running).toBe(true);
  toy.incoming.cancel();
  await Promise.allSettled([toy.incoming.result]);
  expect([toy.destination.running, toy.link.openStreams]).toEqual([false, 0]);
});

test('an incoming migration that was cancelled is not recovered', async () => {
  let recovering: Promise<void> | undefined;
  const toy: Toy = start({
    link: {
      fromSource: (frame, payload) => {
        if (frame.type !== 'go') return { frame, payload };
        expect(toy.incoming.cancel()).toBe(true);
        recovering = toy.incoming.recover({ sourceIsDead: true });
        recovering.catch(() => {});
        return undefined;
      },
    },
  });
  const ends = await toy.settled();
  await expect(recovering).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
  expect([ends.code, ends.receivedCode]).toEqual(['GODWIT_OWNERSHIP_UNKNOWN', 'GODWIT_CANCELLED']);
  expect([toy.incoming.ownership, toy.destination.running]).toEqual(['abandoned', false]);
});

const HELLO: HelloFrame = {
  type: 'hello',
  minimumVersion: 2,
  maximumVersion: 2,
  migrationId: '0123456789abcdef0123456789abcdef',
  software: 'frozen/1',
  pageSize: PAGE,
  blocks: BLOCKS.map((block) => ({ ...block, identity: '' })),
  devices: [],
  features: [],
  pageChannels: 0,
  description: null,
  connection: 1,
  stage: 'running',
  attempt: 1,
};

test('a source that comes back and freezes before it reads anything does not hold the incoming migration for ever', async () => {
  const clock = new VirtualClock();
  const link = memoryLink({ clock, capacity: 0 });
  const incoming = receive(link.listener, { prepare: () => new ToyVm(BLOCKS, { running: false }), clock });
  const request = { migrationId: HELLO.migrationId, pageChannels: 0, connection: 1 };
  const first = await link.connector.connect(request, never);
  await first.control.write(HELLO);
  await first.control.read();
  await first.control.write({ type: 'pages', round: 1, block: 0, runs: [0, 1] }, [new Uint8Array(PAGE).fill(7)]);
  await clock.sleep(1);
  link.cut();
  const second = await link.connector.connect({ ...request, connection: 2 }, never);
  await second.control.write({ ...HELLO, connection: 2 });
  await expect(incoming.result).rejects.toMatchObject({ code: 'GODWIT_LINK_LOST' });
  expect(incoming.ownership).toBe('abandoned');
  expect([link.openStreams, clock.sleepers]).toEqual([0, 0]);
});

test('a destination that takes a source which comes back for a new one, and does not begin anew, leaves nothing open', async () => {
  const toy: Toy = start({
    link: {
      fromDestination: (frame, payload) => {
        if (frame.type === 'ready') toy.link.cut();
        else if (frame.type === 'resumed') {
          const welcome = {
            type: 'welcome',
            version: 2,
            features: [],
            software: 'odd/1',
            maximumPayload: 2 ** 22,
            incarnation: '1'.repeat(32),
            maximumDeviceState: 2 ** 28,
          };
          return { frame: welcome as Frame, payload };
        } else return { frame, payload };
        return undefined;
      },
    },
  });
  await expect(toy.migration.result).rejects.toMatchObject({
    code: 'GODWIT_PROTOCOL',
    message: expect.stringMatching(/^"prepared" comes from incarnation [0-9a-f]{32} .* this one is 1{32}$/),
  });
  expect(toy.source.running).toBe(true);
  toy.incoming.cancel();
  await Promise.allSettled([toy.incoming.result]);
  expect([toy.link.openStreams, toy.clock.sleepers]).toEqual([0, 0]);
});

/** Writes fail on the second connection from the first device piece on; its reader hears nothing of that for a while. */
function halfLost(connector: LinkConnector, clock: VirtualClock): LinkConnector {
  return {
    async connect(request, signal) {
      const link = await connector.connect(request, signal);
      if (request.connection !== 2) return link;
      const stream = link.control;
      let lost = false;
      const control: FrameStream = {
        get bytesRead() {
          return stream.bytesRead;
        },
        get bytesWritten() {
          return stream.bytesWritten;
        },
        write: (frame, payload) => {
          lost ||= frame.type === 'device';
          if (!lost) return stream.write(frame, payload);
          void clock.sleep(200).then(() => stream.abort(new GodwitError('GODWIT_LINK_LOST', 'it is gone')));
          return Promise.reject(new GodwitError('GODWIT_LINK_LOST', 'EPIPE'));
        },
        read: () => stream.read(),
        readPayload: (into) => stream.readPayload(into),
        skipPayload: () => stream.skipPayload(),
        close: () => stream.close(),
        abort: (reason) => stream.abort(reason),
      };
      return { ...link, control };
    },
  };
}

test('a link that is lost while device state goes over it again is made anew, whoever notices first', async () => {
  const clock = new VirtualClock();
  const yielded: number[] = [];
  const device: MigratableDevice = {
    id: 'vfio',
    version: 1,
    async *precopy() {
      yielded.push(yielded.length);
      yield Uint8Array.of(yielded.length);
    },
    async *save() {
      yield Uint8Array.of(99);
    },
    async load() {},
  };
  const got: number[] = [];
  const loaded: MigratableDevice = {
    ...device,
    async load(state) {
      for await (const chunk of state) got.push(...chunk);
    },
  };
  const source = filledVm();
  source.devices = [device];
  let cut = false;
  const link = memoryLink({
    clock,
    fromSource: (frame, payload) => {
      if (frame.type !== 'device' || cut) return { frame, payload };
      cut = true;
      link.cut();
      return undefined;
    },
  });
  const toy = start({
    source,
    destination: new ToyVm(BLOCKS, { running: false, devices: [loaded] }),
    connector: halfLost(link.connector, clock),
    listener: link.listener,
    migrate: { clock, policy: roundCap(2, 'switchover') },
    receive: { clock },
  });
  const ends = await toy.settled();
  expect([ends.code, ends.receivedCode]).toEqual([undefined, undefined]);
  expect(toy.events.filter(({ type }) => type === 'reconnected')).toHaveLength(2);
  expect(got).toEqual([...yielded.map((piece) => piece + 1), 99]);
});

test('pages whose zeroing was interrupted are made zero when they come again', async () => {
  const vm = new ToyVm(BLOCKS);
  const [block] = vm.memory.blocks;
  if (block === undefined) throw new Error('no block');
  const { discard } = block;
  let failures = 1;
  const memory = {
    pageSize: PAGE,
    blocks: [
      Object.assign(Object.create(block) as typeof block, {
        discard: (run: Parameters<NonNullable<typeof discard>>[0]) => {
          if (failures-- > 0) throw new Error('the thread was ended');
          discard?.call(block, run);
        },
      }),
    ],
  };
  const writer = new PageWriter(0, new MemoryWindows(memory), PageBoard.create(memory, 1, false), new VirtualClock());
  const link = memoryLink();
  const { control } = await link.connector.connect(
    { migrationId: HELLO.migrationId, pageChannels: 0, connection: 1 },
    never,
  );
  const { control: reader } = await link.listener.accept(never);
  const frame = { type: 'pages', round: 1, block: 0, runs: [0, 32] } as const;
  await control.write(frame, [new Uint8Array(32 * PAGE).fill(7)]);
  await reader.read();
  await writer.pages(reader, frame, 32 * PAGE);
  const zero = { type: 'zeroPages', round: 1, block: 0, runs: [0, 32] } as const;
  await expect(writer.zeroPages(zero)).rejects.toThrow('the thread was ended');
  await writer.zeroPages(zero);
  expect(block.view(0, 32 * PAGE).every((byte) => byte === 0)).toBe(true);
});

test.each([1, 2, 3])(
  'that the guest stays at the source is told again until the destination has heard of it (lost %i times)',
  async (times) => {
    let lost = 0;
    const toy: Toy = start({
      migrate: { verify: true },
      link: {
        fromSource: (frame, payload) => {
          if (frame.type === 'digestsEnd') toy.migration.cancel('enough');
          if (frame.type !== 'error' || lost === times) return { frame, payload };
          // The carrier takes it, and the link is gone.
          lost++;
          void toy.clock.sleep(10).then(() => toy.link.cut());
          return undefined;
        },
      },
    });
    const ends = await toy.settled();
    expect(lost).toBe(times);
    expect([ends.code, ends.receivedCode]).toEqual(['GODWIT_CANCELLED', 'GODWIT_CANCELLED']);
    expect([toy.migration.ownership, toy.incoming.ownership]).toEqual(['kept', 'abandoned']);
    expect([toy.source.running, toy.destination.running]).toEqual([true, false]);
    expect([toy.link.openStreams, toy.clock.sleepers]).toEqual([0, 0]);
  },
);

test('two links of one source that were waiting together do not become two incoming migrations', async () => {
  const clock = new VirtualClock();
  const link = memoryLink({ clock });
  const request = { migrationId: HELLO.migrationId, pageChannels: 0, connection: 1 };
  const first = await link.connector.connect(request, never);
  const second = await link.connector.connect({ ...request, connection: 2 }, never);
  await first.control.write(HELLO);
  await second.control.write({ ...HELLO, connection: 2 });
  const prepared: ToyVm[] = [];
  const prepare = () => {
    const vm = new ToyVm(BLOCKS, { running: false });
    prepared.push(vm);
    return vm;
  };
  const arrivals = [1, 2].map(() => receive(link.listener, { prepare, clock }));
  expect(await first.control.read()).toMatchObject({ frame: { type: 'welcome' } });
  // A reason that the source takes for a passing one: it comes again, and to the same `receive`.
  expect(await second.control.read()).toMatchObject({ frame: { type: 'error', code: 'GODWIT_LIMIT_EXCEEDED' } });
  void second.control.close();
  await clock.sleep(2000);
  const third = await link.connector.connect({ ...request, connection: 3 }, never);
  await third.control.write({ ...HELLO, connection: 3 });
  expect(await third.control.read()).toMatchObject({ frame: { type: 'welcome' } });
  expect(prepared).toHaveLength(1);
  link.cut();
  for (const incoming of arrivals) incoming.cancel();
  await Promise.allSettled(arrivals.map(({ result }) => result));
  expect([link.openStreams, clock.sleepers]).toEqual([0, 0]);
});

test('a source that reads no more, since what came was wrong, does not look for a destination that has heard why', async () => {
  const toy: Toy = start({
    link: {
      fromDestination: (frame, payload) =>
        frame.type === 'ready'
          ? { frame: { type: 'running', resumeMs: 1, sinceReadyMs: 0 }, payload }
          : { frame, payload },
    },
  });
  const ends = await toy.settled();
  expect([ends.code, ends.receivedCode]).toEqual(['GODWIT_PROTOCOL', 'GODWIT_PROTOCOL']);
  expect([toy.source.running, toy.destination.running]).toEqual([true, false]);
  expect([toy.migration.ownership, toy.incoming.ownership]).toEqual(['kept', 'abandoned']);
  expect(toy.clock.now()).toBeLessThan(3000);
});
