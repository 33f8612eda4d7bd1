import { claimOf, type MigratableDevice, type MigratableVm, migrate, receive } from '@godwit/core';
import { BufferMemory, FaultyDevice, memoryLink, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, filledVm, PAGE, start, type ToyOptions } from './toy-migration.js';

/** Two VMs with a part in common, and how a refusal names it. */
type Pair = () => readonly [ToyVm, ToyVm];

function withBlocks(vm: ToyVm, change: object): ToyVm {
  const blocks = vm.memory.blocks.map((block) => Object.assign(Object.create(block) as typeof block, change));
  return Object.assign(vm, { memory: Object.assign(Object.create(vm.memory), { blocks }) });
}

const named = (identity: string) => withBlocks(filledVm(), { identity });

/** A VM of one page, which is a part of a small buffer. */
function pooled(pool: ArrayBuffer, at: number): ToyVm {
  const view = (offset: number, length: number) => new Uint8Array(pool, at + offset, length);
  return withBlocks(new ToyVm([{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGE }]), { view });
}

/** Names are the process's: each is used once. */
let names = 0;
const fresh = () => `memfd:${++names}+0`;

function twins(): readonly [ToyVm, ToyVm] {
  const identity = fresh();
  return [named(identity), named(identity)];
}

const SHARED: readonly (readonly [string, Pair, string])[] = [
  [
    'the memory object',
    () => {
      const [one, other] = [filledVm(), filledVm()];
      return [one, Object.assign(other, { memory: one.memory })];
    },
    "the VM's memory",
  ],
  [
    'a RAM block',
    () => {
      // Its bytes are in a pool, and say nothing.
      const [one, other] = [pooled(new ArrayBuffer(8 * PAGE), 0), pooled(new ArrayBuffer(8 * PAGE), 0)];
      const memory = Object.assign(Object.create(other.memory), { blocks: one.memory.blocks });
      return [one, Object.assign(other, { memory })];
    },
    'the memory of RAM block "ram"',
  ],
  [
    'the bytes under two RAM blocks',
    () => {
      const [one, other] = [filledVm(), filledVm()];
      const [block] = one.memory.blocks;
      return [one, withBlocks(other, { view: (offset: number, length: number) => block?.view(offset, length) })];
    },
    'the memory of RAM block "ram"',
  ],
  [
    'a buffer that is too large for a pool',
    () => {
      const buffer = new ArrayBuffer(2 ** 16 + PAGE);
      return [pooled(buffer, 0), pooled(buffer, PAGE)];
    },
    'the memory of RAM block "ram"',
  ],
  ['memory of one name, mapped twice', twins, 'the memory of RAM block "ram"'],
  [
    'a dirty tracker',
    () => {
      const [one, other] = [filledVm(), filledVm()];
      other.trackers = [other.software, one.software];
      return [one, other];
    },
    'the dirty tracker "software"',
  ],
  [
    'a device',
    () => {
      const [one, other] = [filledVm(), filledVm()];
      one.devices = [new FaultyDevice('uart')];
      other.devices = one.devices;
      return [one, other];
    },
    'the device "uart"',
  ],
];

/** A destination for what the source brings. */
function destinationOf({ memory, devices }: MigratableVm): ToyVm {
  const blocks = memory.blocks.map(({ id, guestPhysicalAddress, byteLength }) => ({
    id,
    guestPhysicalAddress,
    byteLength,
  }));
  return new ToyVm(blocks, { running: false, devices: devices.map(({ id }) => new FaultyDevice(id)) });
}

const held = (source: ToyVm): ToyOptions => ({
  source,
  destination: destinationOf(source),
  migrate: { pauseBeforeSwitchover: true },
});

describe('two VM objects that share a part are one VM', () => {
  test.each(SHARED)('%s', async (_, pair, part) => {
    const [one, other] = pair();
    const first = start(held(one));
    await first.clock.sleep(100);
    expect(first.migration.state).toBe('pre-switchover');
    const link = memoryLink();
    const second = migrate(other, link.connector);
    await expect(second.result).rejects.toMatchObject({
      code: 'GODWIT_CLAIMED',
      retry: true,
      message: expect.stringContaining(`${part} is taken by migration ${first.migration.id}, which is under way`),
    });
    expect([other.pauses, other.resumes, link.openStreams]).toEqual([0, 0, 0]);
    expect(claimOf(other)).toMatchObject({ state: 'outgoing', migrationId: first.migration.id });
    first.migration.proceed();
    expectMoved(first, await first.settled());
    // What was handed over is not here under another name, either.
    if (part.startsWith('the device')) return;
    expect(claimOf(other)).toMatchObject({ state: 'handedOver', migrationId: first.migration.id });
    await expect(migrate(other, link.connector).result).rejects.toMatchObject({ code: 'GODWIT_HANDED_OVER' });
  });

  test.each(SHARED.filter(([name]) => name !== 'a device' && name !== 'a dirty tracker'))(
    'a VM is not received into memory that is being sent: %s',
    async (_, pair) => {
      const [one, other] = pair();
      const first = start(held(one));
      await first.clock.sleep(100);
      const before = other.memory.blocks[0]?.view(0, PAGE).slice();
      const second = start({ destination: other });
      const ends = await second.settled();
      expect([ends.code, ends.receivedCode]).toEqual(['GODWIT_CLAIMED', 'GODWIT_CLAIMED']);
      expect(ends.sent).toMatchObject({ reason: { remote: true, retry: false } });
      expect(other.memory.blocks[0]?.view(0, PAGE)).toEqual(before);
      expect([other.resumes, other.abandoned]).toEqual([0, undefined]);
      first.migration.proceed();
      expectMoved(first, await first.settled());
    },
  );
});

describe('two VMs that share nothing', () => {
  test.each<readonly [string, Pair]>([
    ['blocks of one name and address', () => [filledVm(), filledVm()]],
    ['memory of two names', () => [named(fresh()), named(fresh())]],
    ['memory without a name', () => [named(''), named('')]],
    [
      'small blocks that Node has packed into one buffer',
      () => {
        const pool = new ArrayBuffer(8 * PAGE);
        return [pooled(pool, 0), pooled(pool, PAGE)];
      },
    ],
  ])('%s: are two', async (_, pair) => {
    const [one, other] = pair();
    const first = start(held(one));
    await first.clock.sleep(100);
    const second = start({ source: other, destination: destinationOf(other) });
    const ends = await second.settled();
    expect([ends.code, ends.receivedCode]).toEqual([undefined, undefined]);
    first.migration.proceed();
    expect((await first.settled()).code).toBeUndefined();
  });

  test('one device object may stand for both ends: it has a claim for each direction', async () => {
    let saved = 0;
    const both: MigratableDevice = {
      id: 'uart',
      version: 1,
      async *save() {
        saved++;
        yield Uint8Array.of(7);
      },
      async load(state) {
        for await (const chunk of state) expect([...chunk]).toEqual([7]);
      },
    };
    const source = filledVm();
    source.devices = [both];
    const toy = start({ source, destination: new ToyVm(BLOCKS, { running: false, devices: [both] }) });
    expectMoved(toy, await toy.settled());
    expect(saved).toBe(1);
  });
});

test('memory that was handed over and is gone leaves its name to other memory', async () => {
  const identity = fresh();
  const one = named(identity);
  const first = start({ source: one });
  expectMoved(first, await first.settled());
  const other = named(identity);
  expect(claimOf(other).state).toBe('handedOver');
  // The first owner has unmapped it, and says so by another name.
  for (const block of one.memory.blocks) Object.assign(block, { identity: '' });
  expect(claimOf(other).state).toBe('idle');
  const second = start({ source: other });
  expectMoved(second, await second.settled());
});

test('memory that cannot be claimed is an error of its own, and takes nothing', async () => {
  const source = filledVm();
  const broken = withBlocks(source, {
    view: () => {
      throw new Error('unmapped');
    },
  });
  const { connector } = memoryLink();
  await expect(migrate(broken, connector).result).rejects.toMatchObject({
    code: 'GODWIT_INTERNAL',
    message: expect.stringContaining('unmapped'),
  });
  const whole = filledVm();
  Object.assign(whole, { trackers: source.trackers });
  expect(claimOf(whole).state).toBe('idle');
});

test("a destination whose memory is the source's own is refused, and the guest is untouched", async () => {
  const memory = new BufferMemory(BLOCKS);
  const source = withBlocks(filledVm(), { identity: 'dev:1/ino:2+0' });
  const destination = withBlocks(Object.assign(new ToyVm(BLOCKS, { running: false }), { memory }), {
    // Another range of the same file.
    identity: 'dev:1/ino:2+4096',
  });
  const { connector, listener } = memoryLink();
  const incoming = receive(listener, { prepare: () => destination });
  const migration = migrate(source, connector);
  const message = expect.stringContaining('are the same memory (dev:1/ino:2+0)');
  await expect(migration.result).rejects.toMatchObject({ code: 'GODWIT_SHARED_MEMORY', message });
  await expect(incoming.result).rejects.toMatchObject({ code: 'GODWIT_SHARED_MEMORY', message });
  expect([source.running, destination.abandoned]).toEqual([true, undefined]);
  expect(claimOf(source).state).toBe('idle');
  expect(claimOf(destination).state).toBe('idle');
});
