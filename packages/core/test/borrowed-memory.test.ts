import type { FrameStream, LinkConnector, MigratableVm } from '@godwit/core';
import { memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { PAGE, start } from './toy-migration.js';

/** A link whose writes resolve long after their bytes have arrived, and that counts those that have not. */
function lazyLink(clock: VirtualClock, resolvesAfterMs: number) {
  const link = memoryLink({ clock });
  const pending = { writes: 0 };
  const lazy = (stream: FrameStream): FrameStream => {
    const dropped = new AbortController();
    return {
      get bytesWritten() {
        return stream.bytesWritten;
      },
      get bytesRead() {
        return stream.bytesRead;
      },
      async write(frame, payload) {
        pending.writes++;
        try {
          await stream.write(frame, payload);
          if (payload !== undefined) await clock.sleep(resolvesAfterMs, dropped.signal);
        } finally {
          pending.writes--;
        }
      },
      read: () => stream.read(),
      readPayload: (into) => stream.readPayload(into),
      skipPayload: () => stream.skipPayload(),
      close: () => stream.close(),
      abort(reason) {
        stream.abort(reason);
        dropped.abort(reason);
      },
    };
  };
  const connector: LinkConnector = {
    async connect(request, signal) {
      const { control, pageChannels, peer } = await link.connector.connect(request, signal);
      return { control, pageChannels: pageChannels.map(lazy), peer };
    },
  };
  return { listener: link.listener, connector, pending, cut: () => link.cut() };
}

describe('memory is borrowed until a write has settled', () => {
  test('a round has not ended before', async () => {
    const clock = new VirtualClock();
    const { listener, connector, pending } = lazyLink(clock, 50);
    const seen: number[] = [];
    const toy = start({ listener, connector, migrate: { pageChannels: 2, clock }, receive: { clock } });
    toy.migration.subscribe({ next: (event) => event.type === 'round' && seen.push(pending.writes), error: () => {} });
    const ends = await toy.settled();
    expect(ends.code).toBeUndefined();
    expect(seen).toEqual([0, 0]);
  });

  test.each(['cancel', 'cut'] as const)('nor has a migration that fails (%s)', async (how) => {
    const clock = new VirtualClock();
    const { listener, connector, pending, cut } = lazyLink(clock, 600_000);
    const toy = start({
      listener,
      connector,
      migrate: { pageChannels: 2, clock, reconnectTimeoutMs: 0 },
      receive: { clock, reconnectTimeoutMs: 0 },
    });
    void clock.sleep(1000).then(() => (how === 'cut' ? cut() : toy.migration.cancel()));
    await toy.migration.result.catch(() => {});
    expect(pending.writes).toBe(0);
    expect(toy.source.running).toBe(true);
    await toy.settled();
  });
});

test('memory is not written once the VM that would not run was abandoned', async () => {
  const blocks = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 26 }];
  const destination = new ToyVm(blocks, { running: false });
  const [block] = destination.memory.blocks;
  if (block === undefined) throw new Error('unreachable');
  // Nothing but writing zeros makes it pristine, and that takes several turns.
  const memory = {
    pageSize: PAGE,
    blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 2 ** 26, view: block.view }],
  };
  const vm: MigratableVm = Object.assign(destination, {
    memory,
    abandon: async () => {
      block.bytes.fill(0x77);
    },
  });
  const toy = start({ source: new ToyVm(blocks), prepare: () => vm });
  toy.incoming.subscribe({
    next: (event) => event.type === 'hello' && void toy.clock.yield().then(() => toy.incoming.cancel()),
    error: () => {},
  });
  const [received] = await Promise.allSettled([toy.incoming.result, toy.migration.result]);
  expect(received.status).toBe('rejected');
  for (let turn = 0; turn < 20; turn++) await toy.clock.yield();
  expect(Buffer.compare(block.bytes, Buffer.alloc(2 ** 26, 0x77))).toBe(0);
});

test.each(['cancel', 'go'] as const)(
  'a stream that says when it has settled is waited for, however long it takes (%s)',
  async (how) => {
    const clock = new VirtualClock();
    const link = memoryLink({ clock });
    let settle: () => void = () => {};
    const settled = new Promise<void>((resolve) => {
      settle = resolve;
    });
    const connector: LinkConnector = {
      async connect(request, signal) {
        const made = await link.connector.connect(request, signal);
        return {
          ...made,
          pageChannels: made.pageChannels.map((stream) => Object.assign(stream, { settled: () => settled })),
        };
      },
    };
    const toy = start({
      listener: link.listener,
      connector,
      migrate: { pageChannels: 1, clock, progressIntervalMs: 0 },
      receive: { clock, progressIntervalMs: 0 },
    });
    if (how === 'cancel') {
      toy.migration.subscribe({
        next: (event) => event.type === 'round' && toy.migration.cancel(),
        error: () => {},
      });
    }
    let over = false;
    void toy.migration.result.then(
      () => {
        over = true;
      },
      () => {
        over = true;
      },
    );
    // An hour of the virtual clock: every closeWithMessage has given up by then.
    await clock.sleep(3_600_000);
    expect([over, toy.source.running]).toEqual([false, how === 'cancel']);
    settle();
    await toy.settled();
    expect(toy.migration.state).toBe(how === 'cancel' ? 'cancelled' : 'completed');
  },
);
