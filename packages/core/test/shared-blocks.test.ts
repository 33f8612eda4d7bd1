import { assertMayChange, claimOf, migrate, type RamBlock, reclaim } from '@godwit/core';
import {
  BufferMemory,
  engineParts,
  FaultyDevice,
  FaultyTracker,
  type FrameTap,
  memoryLink,
  ToyVm,
} from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { expectMoved, expectStayed, PAGE, start, switchAfter, type Toy, type ToyOptions } from './toy-migration.js';

const RAM = { id: 'ram', guestPhysicalAddress: 0, byteLength: 16 * PAGE };
const SHM = { id: 'shm', guestPhysicalAddress: 2 ** 32, byteLength: 16 * PAGE };
const LAYOUT = [RAM, SHM];
let files = 0;

interface Ends {
  readonly source: ToyVm;
  readonly destination: ToyVm;
  /** The memory of both. */
  readonly shared: Uint8Array;
  /** Calls into the destination's shared block, each with whether the guest was there by then. */
  readonly touches: string[];
}

type Change = Partial<Pick<RamBlock, 'shared' | 'readOnly' | 'identity'>>;

/** Replaces the last block of a VM by one with these properties, over `bytes`. */
function over(vm: ToyVm, bytes: Uint8Array, change: object): ToyVm {
  const last = vm.memory.blocks.length - 1;
  const blocks = vm.memory.blocks.map((block, index) => {
    if (index < last) return block;
    const { id, guestPhysicalAddress, byteLength } = block;
    const view = (offset: number, length: number) => bytes.subarray(offset, offset + length);
    return { id, guestPhysicalAddress, byteLength, bytes, present: block.present, view, ...change };
  });
  return Object.assign(vm, { memory: Object.assign(Object.create(vm.memory), { blocks }) });
}

/** A source and a destination in one process, whose last block is the same memory. */
function twoEnds(ours: Change = {}, theirs: Change = {}, layout: readonly (typeof RAM)[] = LAYOUT): Ends {
  const file = `boot/8:${++files}`;
  const shared = new Uint8Array(16 * PAGE).map((_, i) => i % 251);
  const touches: string[] = [];
  const note = (call: string) => () => {
    touches.push(`${call}, running: ${destination.running}`);
    throw new Error('a shared block was touched');
  };
  const block = { identity: `${file}+0`, shared: true };
  const source = over(new ToyVm(layout), shared, { ...block, ...ours });
  const traps = { view: note('view'), populated: note('populated'), discard: note('discard') };
  const destination = over(new ToyVm(layout, { running: false }), shared, { ...block, ...traps, ...theirs });
  if (layout.length > 1) for (let page = 0; page < 8; page++) source.write(0, page * PAGE, Uint8Array.of(page + 1));
  return { source, destination, shared, touches };
}

function startShared(ends: Ends, options: ToyOptions = {}): Toy & { readonly blocksSent: Set<number> } {
  const blocksSent = new Set<number>();
  const toy = start({
    source: ends.source,
    destination: ends.destination,
    ...options,
    migrate: { policy: switchAfter(3), verify: true, ...options.migrate },
    link: {
      ...options.link,
      fromSource: (frame, payload, channel) => {
        if ('block' in frame) blocksSent.add(frame.block);
        return options.link?.fromSource?.(frame, payload, channel) ?? { frame, payload };
      },
    },
  });
  return Object.assign(toy, { blocksSent });
}

describe('a block that both sides share', () => {
  test.each([0, 2])('is neither sent nor touched, and the guest moves: over %i page channels', async (pageChannels) => {
    const ends = twoEnds();
    const before = ends.shared.slice();
    const toy = startShared(ends, {
      migrate: { pageChannels },
      link: {
        fromSource: (frame, payload) => {
          // The guest writes both blocks in each round.
          if (frame.type === 'roundEnd' && ends.source.running) {
            ends.source.write(0, PAGE, Uint8Array.of(frame.round));
            ends.source.write(1, 5 * PAGE, before.slice(5 * PAGE, 5 * PAGE + 9));
          }
          return { frame, payload };
        },
      },
    });
    expectMoved(toy, await toy.settled());
    expect(ends.touches).toEqual([]);
    expect(Buffer.compare(ends.shared, before)).toBe(0);
    expect([...toy.blocksSent]).toEqual([0]);
    const rounds = toy.events.flatMap((event) => (event.type === 'round' ? [event.round] : []));
    expect(rounds.length).toBeGreaterThanOrEqual(3);
    for (const { round, pages, trackers } of rounds) {
      const sent = Object.values(pages).reduce((sum, count) => sum + count, 0);
      expect([round, sent]).toEqual([round, round === 1 ? 8 : 1]);
      // One page of the other block in each round: never the one that is shared.
      for (const { dirtyPages } of trackers) expect(dirtyPages).toBe(1);
    }
    expect(rounds.flatMap(({ trackers }) => trackers).length).toBeGreaterThan(0);
  });

  test('may be all of the memory: no page moves', async () => {
    const ends = twoEnds({}, {}, [SHM]);
    const toy = startShared(ends);
    const { sent } = await toy.settled();
    expect(sent).toMatchObject({ status: 'fulfilled', value: { rawBytes: 0, verifiedPages: 0 } });
    expect([ends.source.running, ends.destination.running, ends.touches]).toEqual([false, true, []]);
  });

  test('owes nothing when a tracker fails and every page counts as written', async () => {
    const ends = twoEnds();
    const inner = ends.source.software;
    ends.source.trackers = [new FaultyTracker(inner, ends.source.memory, { failHarvest: 1 })];
    const toy = startShared(ends);
    expectMoved(toy, await toy.settled());
    expect([...toy.blocksSent]).toEqual([0]);
    expect(toy.events.some((event) => event.type === 'warning' && event.code === 'GODWIT_TRACKER_FAILED')).toBe(true);
  });

  test('is as the source had it when the migration is rolled back before "go"', async () => {
    const ends = twoEnds();
    const before = ends.shared.slice();
    ends.source.devices = [new FaultyDevice('uart', Uint8Array.of(1))];
    const refusing = new FaultyDevice('uart');
    refusing.load = async () => {
      throw new Error('it does not load');
    };
    ends.destination.devices = [refusing];
    const toy = startShared(ends);
    expectStayed(toy, await toy.settled(), 'GODWIT_DEVICE_FAILED');
    expect([Buffer.compare(ends.shared, before), ends.touches, ends.source.running]).toEqual([0, [], true]);
    expect([claimOf(ends.source).state, claimOf(ends.destination).state]).toEqual(['idle', 'idle']);
  });

  test('is not owed by the loads of a stop-and-copy that was given up', async () => {
    const ends = twoEnds();
    ends.source.devices = [new FaultyDevice('uart', Uint8Array.of(1))];
    // It does not say what its load has written: every page counts.
    const slow = new FaultyDevice('uart');
    const load = slow.load.bind(slow);
    let loads = 0;
    slow.load = async (state) => {
      await load(state);
      if (++loads === 1) await toy.clock.sleep(2000);
    };
    ends.destination.devices = [slow];
    const owed: number[] = [];
    const toy = startShared(ends, {
      migrate: { pauseLimitMs: 500 },
      link: {
        fromDestination: (frame, payload) => {
          if (frame.type === 'owed') owed.push(frame.block);
          return { frame, payload };
        },
      },
    });
    expectMoved(toy, await toy.settled());
    expect(toy.events.some(({ type }) => type === 'went-back')).toBe(true);
    expect([loads, owed, [...toy.blocksSent], ends.touches]).toEqual([2, [0], [0], []]);
  });

  test('cannot be named by a source', async () => {
    for (const type of ['pages', 'digests']) {
      const ends = twoEnds();
      const toBlock1: FrameTap = (frame, payload) =>
        ({ frame: frame.type === type ? { ...frame, block: 1 } : frame, payload }) as ReturnType<FrameTap>;
      const toy = start({ ...ends, migrate: { verify: true }, link: { fromSource: toBlock1 } });
      const { received } = await toy.settled();
      // What is wrong between "ready" and "go" is a lost link.
      const reasons = [received.status === 'rejected' && received.reason, ...toy.incomingEvents];
      expect([type, JSON.stringify(reasons)]).toEqual([type, expect.stringContaining('which both sides share')]);
      expect(ends.touches).toEqual([]);
    }
  });
});

describe('after "go" the source of a shared block never runs the guest again', () => {
  async function unknown(ends: Ends) {
    const toy = startShared(ends, {
      migrate: { settleTimeoutMs: 0, reconnectTimeoutMs: 0 },
      receive: { settleTimeoutMs: 0 },
      link: {
        fromDestination: (frame, payload) => {
          if (frame.type !== 'running') return { frame, payload };
          toy.link.cut({ delivered: false });
          return undefined;
        },
      },
    });
    const { code } = await toy.settled();
    expect([code, toy.migration.ownership, ends.source.running]).toEqual([
      'GODWIT_OWNERSHIP_UNKNOWN',
      'unknown',
      false,
    ]);
    return toy;
  }

  test('recover and reclaim are refused', async () => {
    const ends = twoEnds();
    const toy = await unknown(ends);
    await expect(toy.migration.recover({ destinationIsDead: true })).rejects.toMatchObject({
      code: 'GODWIT_SHARED_MEMORY',
      message: expect.stringContaining('recover() is refused: the destination maps RAM block "shm" too'),
    });
    expect(() => reclaim(ends.source, { because: 'it is dead' })).toThrow(
      expect.objectContaining({
        code: 'GODWIT_SHARED_MEMORY',
        message: expect.stringContaining('reclaim() is refused'),
      }),
    );
    expect([ends.source.running, ends.source.resumes, toy.migration.ownership]).toEqual([false, 0, 'unknown']);
    expect(claimOf(ends.source).state).toBe('handedOver');
    // Whom nothing is shared with may.
    const other = start({ source: new ToyVm([RAM]), destination: new ToyVm([RAM], { running: false }) });
    expect((await other.settled()).code).toBeUndefined();
    reclaim(other.source, { because: 'a test' });
  });

  test('before "go", when the authority has not answered, recover is as with any other memory', async () => {
    const never = () => new Promise<never>(() => {});
    let answers = 0;
    const ends = twoEnds();
    const toy = startShared(ends, {
      migrate: {
        settleTimeoutMs: 0,
        switchoverTimeoutMs: 1000,
        authority: {
          transfer: never,
          withdraw: () => (++answers === 1 ? never() : Promise.resolve('withdrawn' as const)),
          mayRun: async () => true,
        },
      },
    });
    const [result] = await Promise.allSettled([toy.migration.result]);
    expect(result).toMatchObject({ reason: { code: 'GODWIT_OWNERSHIP_UNKNOWN' } });
    await toy.migration.recover({ destinationIsDead: true });
    expect([ends.source.running, toy.migration.ownership]).toEqual([true, 'recovered']);
    toy.incoming.cancel();
    await toy.incoming.result.catch(() => {});
  });
});

describe('is refused, with nothing touched', () => {
  const cases: readonly (readonly [string, Change, Change, string])[] = [
    ['the source alone declares it', {}, { shared: undefined }, 'declare the block shared at both ends'],
    ['the destination alone declares it', { shared: undefined }, {}, 'declare the block shared at both ends'],
    ['neither declares it', { shared: undefined }, { shared: undefined }, 'are the same memory'],
    [
      'the source alone declares it, over other memory',
      {},
      { shared: undefined, identity: 'b/1:1+0' },
      'not declared shared',
    ],
    [
      'the destination alone declares it, over other memory',
      { shared: undefined, identity: 'b/1:1+0' },
      {},
      'not declared shared',
    ],
    [
      'another boot',
      { identity: 'boot-1/8:2+0' },
      { identity: 'boot-2/8:2+0' },
      'the source has boot-1/8:2+0, the destination boot-2/8:2+0',
    ],
    ['another file', { identity: 'boot/8:2+0' }, { identity: 'boot/8:3+0' }, 'same part of the same memory file'],
    ['another offset', { identity: 'boot/8:2+0' }, { identity: 'boot/8:2+65536' }, 'cannot be shared'],
    [
      'ranges that overlap only',
      { identity: 'boot/8:2+0' },
      { identity: 'boot/8:2+4096' },
      'are the same memory (boot/8:2+0)',
    ],
    ['no identity at the destination', {}, { identity: undefined }, 'the destination memory without an identity'],
    ['no identity at the source', { identity: '' }, {}, 'is declared shared, but has no identity'],
  ];
  test.each(cases)('%s', async (_, ours, theirs, says) => {
    const ends = twoEnds(ours, theirs);
    const before = ends.shared.slice();
    // Undeclared memory is looked at by the claim, which asks for the buffer under a view.
    const view = (offset: number, length: number) => new Uint8Array(16 * PAGE).subarray(offset, offset + length);
    if (!ends.destination.memory.blocks[1]?.shared)
      Object.assign(ends.destination.memory.blocks[1] as object, { view });
    const toy = startShared(ends);
    toy.migration.result.catch(() => toy.incoming.cancel());
    expectStayed(toy, await toy.settled(), 'GODWIT_SHARED_MEMORY');
    expect(toy.migration.status().error?.message).toContain(says);
    expect([ends.touches, Buffer.compare(ends.shared, before), toy.blocksSent.size]).toEqual([[], 0, 0]);
    expect([claimOf(ends.source).state, claimOf(ends.destination).state]).toEqual(['idle', 'idle']);
  });

  test('no identity at either end, whatever the source makes of that', async () => {
    const ends = twoEnds({}, { identity: undefined });
    const toy = startShared(ends, {
      link: {
        fromSource: (frame, payload) => {
          if (frame.type !== 'hello') return { frame, payload };
          return { frame: { ...frame, blocks: frame.blocks.map((block) => ({ ...block, identity: '' })) }, payload };
        },
      },
    });
    expectStayed(toy, await toy.settled(), 'GODWIT_SHARED_MEMORY');
    expect(ends.touches.filter((touch) => !touch.startsWith('view'))).toEqual([]);
  });

  test('a destination that does not know shared blocks', async () => {
    const ends = twoEnds();
    const toy = startShared(ends, {
      link: {
        fromDestination: (frame, payload) => {
          if (frame.type !== 'welcome') return { frame, payload };
          return { frame: { ...frame, features: frame.features.filter((name) => name !== 'shared') }, payload };
        },
      },
    });
    expectStayed(toy, await toy.settled(), 'GODWIT_UNSUPPORTED');
    expect(toy.blocksSent.size).toBe(0);
  });
});

test('two parts of one file that do not overlap are memory of two VMs', async () => {
  const plain = { shared: undefined, populated: undefined, discard: undefined };
  const ends = twoEnds({ ...plain, identity: 'boot/9:9+0' }, { ...plain, identity: 'boot/9:9+65536' });
  const own = new Uint8Array(16 * PAGE);
  Object.assign(ends.destination.memory.blocks[1] as object, {
    bytes: own,
    view: (offset: number, length: number) => own.subarray(offset, offset + length),
  });
  const toy = startShared(ends);
  expectMoved(toy, await toy.settled());
  expect(Buffer.compare(own, ends.shared)).toBe(0);
});

describe('the claims of both ends in one process', () => {
  test('allow the two ends, and nobody else', async () => {
    const ends = twoEnds();
    const toy = startShared(ends, { migrate: { pauseBeforeSwitchover: true } });
    await toy.clock.sleep(100);
    const { id } = toy.migration;
    expect(claimOf(ends.source)).toMatchObject({ state: 'outgoing', migrationId: id });
    expect(claimOf(ends.destination)).toMatchObject({ state: 'arriving', migrationId: id });
    // A third VM over the same memory, which declares it shared too.
    const { identity } = ends.source.memory.blocks[1] as RamBlock;
    const third = over(new ToyVm(LAYOUT), ends.shared, { identity, shared: true });
    await expect(migrate(third, memoryLink().connector).result).rejects.toMatchObject({ code: 'GODWIT_CLAIMED' });
    // Another migration, whose ends have it in common with this one.
    const fourth = over(new ToyVm(LAYOUT, { running: false }), ends.shared, { identity, shared: true });
    const other = start({ source: new ToyVm(LAYOUT), destination: fourth });
    expect((await other.settled()).receivedCode).toBe('GODWIT_CLAIMED');
    toy.migration.proceed();
    expectMoved(toy, await toy.settled());
  });

  test('hold for one migration and for its two directions', () => {
    const { Claim } = engineParts;
    const { source, destination } = twoEnds();
    const [id, other] = ['a'.repeat(32), 'b'.repeat(32)];
    const claimed = expect.objectContaining({ code: 'GODWIT_CLAIMED' });
    const outgoing = Claim.take(source, 'outgoing', id);
    expect(() => Claim.take(destination, 'arriving', other)).toThrow(claimed);
    expect(() => Claim.take(destination, 'outgoing', id)).toThrow(claimed);
    const arriving = Claim.take(destination, 'arriving', id);
    for (const claim of [outgoing, arriving]) claim.end();
    // What is not declared shared is not, whatever the ids say.
    Object.assign(destination.memory.blocks[1] as object, { shared: undefined, view: source.memory.blocks[1]?.view });
    const again = Claim.take(source, 'outgoing', id);
    expect(() => Claim.take(destination, 'arriving', id)).toThrow(claimed);
    again.end();
  });

  test('leave the memory with the VM that runs: it may move on, its former one may not', async () => {
    const ends = twoEnds();
    const first = startShared(ends);
    expectMoved(first, await first.settled());
    expect(claimOf(ends.source).state).toBe('handedOver');
    expect(claimOf(ends.destination).state).toBe('idle');
    const { identity } = ends.source.memory.blocks[1] as RamBlock;
    const next = over(new ToyVm(LAYOUT, { running: false }), ends.shared, { identity, shared: true });
    const second = startShared({ ...ends, source: ends.destination, destination: next });
    expectMoved(second, await second.settled());
    await expect(migrate(ends.source, memoryLink().connector).result).rejects.toMatchObject({
      code: 'GODWIT_HANDED_OVER',
    });
  });
});

describe('read-only blocks', () => {
  const rom = (change: Change = {}): ToyVm => {
    const vm = new ToyVm(LAYOUT);
    Object.assign(vm.memory.blocks[1] as object, { readOnly: true, ...change });
    vm.memory.write(1, 3 * PAGE, Uint8Array.of(0x55, 0xaa));
    return vm;
  };
  const destinationOf = (change: Change) => {
    const destination = new ToyVm(LAYOUT, { running: false });
    Object.assign(destination.memory.blocks[1] as object, change);
    return destination;
  };

  test('are sent in round 1, like any other', async () => {
    const toy = start({ source: rom(), destination: destinationOf({ readOnly: true }) });
    expectMoved(toy, await toy.settled());
    expect(toy.events.filter(({ type }) => type === 'warning')).toEqual([]);
  });

  test('are sent again when they were written nonetheless, with one warning', async () => {
    const source = rom();
    const toy = start({
      source,
      destination: destinationOf({ readOnly: true }),
      migrate: { policy: switchAfter(4) },
      link: {
        fromSource: (frame, payload) => {
          if (frame.type === 'roundEnd' && source.running) source.write(1, 3 * PAGE, Uint8Array.of(frame.round));
          return { frame, payload };
        },
      },
    });
    expectMoved(toy, await toy.settled());
    expect(toy.events.filter(({ type }) => type === 'warning')).toEqual([
      {
        type: 'warning',
        code: 'GODWIT_INVALID_ARGUMENT',
        message: expect.stringContaining('reports that RAM block "shm" was written, which is declared read-only'),
      },
    ]);
  });

  test.each([
    ['at the source alone', rom(), destinationOf({}), 'read-only at the source, but not at the destination'],
    [
      'at the destination alone',
      new ToyVm(LAYOUT),
      destinationOf({ readOnly: true }),
      'read-only at the destination, but not at the source',
    ],
  ])('are refused when they are so %s', async (_, source, destination, says) => {
    const toy = start({ source, destination });
    expectStayed(toy, await toy.settled(), 'GODWIT_MEMORY_MISMATCH');
    expect(toy.migration.status().error?.message).toContain(says);
  });
});

describe('assertMayChange', () => {
  test('refuses the owner of memory that a migration uses, at both ends, until it has let go', async () => {
    const source = new ToyVm(LAYOUT);
    const destination = new ToyVm(LAYOUT, { running: false });
    let atAbandon: unknown = 'not called';
    destination.abandon = async () => {
      atAbandon = undefined;
      assertMayChange(destination.memory, 'unmap it');
    };
    for (const { memory } of [source, destination]) assertMayChange(memory, 'add a block');
    const toy = start({ source, destination, migrate: { pauseBeforeSwitchover: true } });
    await toy.clock.sleep(100);
    const refusals = [source.memory, source.memory.blocks[1], destination.memory, destination.memory.blocks[0]];
    for (const part of refusals as RamBlock[]) {
      expect(() => assertMayChange(part, 'add the RAM block "dimm1"')).toThrow(
        expect.objectContaining({
          code: 'GODWIT_CLAIMED',
          message: expect.stringContaining(`cannot add the RAM block "dimm1": migration ${toy.migration.id}, which is`),
        }),
      );
    }
    // Other memory is nobody's concern.
    assertMayChange(new BufferMemory(LAYOUT), 'add a block');
    toy.migration.cancel();
    await toy.settled();
    expect([atAbandon, toy.incomingEvents.filter(({ type }) => type === 'warning')]).toEqual([undefined, []]);
    for (const { memory } of [source, destination]) assertMayChange(memory, 'add a block');
  });

  test('allows it once the guest was handed over, or has arrived', async () => {
    const toy = start();
    expectMoved(toy, await toy.settled());
    for (const { memory } of [toy.source, toy.destination]) assertMayChange(memory, 'unmap it');
  });
});
