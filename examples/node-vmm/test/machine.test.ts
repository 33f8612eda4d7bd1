import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { DirtyBitmaps, GodwitError } from '@godwit/core';
import type { MachineConfig, VirtualMachine } from '@godwit/example-node-vmm';
import { MAILBOX_ADDRESS, MAILBOX_PAGES, PAGE_SIZE } from '@godwit/example-node-vmm/guest';
import { afterEach, describe, expect } from '@jest/globals';
import { moveGuest, savedState } from './cold-migration.js';
import { KINDS, type KindUnderTest } from './machine-kinds.js';
import { ObservedGuest } from './observed-guest.js';

const MIB = 2 ** 20;
const ZERO_PAGE = Buffer.alloc(PAGE_SIZE);
const SMALL: MachineConfig = {
  memoryBytes: 32 * MIB,
  vcpus: 2,
  workload: { workingSetBytes: MIB, pagesPerSecond: 4000, heartbeatMicroseconds: 10_000 },
};

const machines: VirtualMachine[] = [];
afterEach(async () => {
  await Promise.all(machines.splice(0).map((machine) => machine.close()));
});

async function created(kind: KindUnderTest, config: MachineConfig): Promise<VirtualMachine> {
  const machine = await kind.create(config);
  machines.push(machine);
  return machine;
}

async function arriving(kind: KindUnderTest, description: unknown): Promise<VirtualMachine> {
  const machine = await kind.fromDescription(description);
  machines.push(machine);
  return machine;
}

describe.each(KINDS)('a $kind machine', (kind) => {
  kind.test('runs the guest', async () => {
    const machine = await created(kind, SMALL);
    const guest = new ObservedGuest();
    guest.follow(machine);
    expect(machine.state).toBe('paused');
    await machine.resume();
    expect(machine.state).toBe('running');
    await guest.moreBeats(5);
    await machine.pause();
    expect(guest.problems).toEqual([]);
    guest.checkMemory(machine);
  });

  kind.test('is paused and resumed 1,000 times, and the guest keeps going', async () => {
    // Without a rate limit, a vCPU is in the guest, in a port exit or on its way into KVM_RUN when a pause comes.
    const machine = await created(kind, {
      ...SMALL,
      workload: { workingSetBytes: MIB, heartbeatMicroseconds: 10_000 },
    });
    const guest = new ObservedGuest();
    guest.follow(machine);
    await machine.resume();
    await guest.moreBeats(1);
    for (let i = 0; i < 1000; i++) {
      await machine.pause();
      await machine.resume();
      // The next pause comes at once, or one or two milliseconds later, so that pauses come at every place of the vCPU's loop.
      if (i % 4 === 0) await sleep(i % 3);
    }
    await guest.moreBeats(3);
    await machine.pause();
    expect(guest.problems).toEqual([]);
    guest.checkMemory(machine);
  });

  kind.test('obeys pause and resume in the order of the calls, and a second call of one does nothing', async () => {
    const machine = await created(kind, SMALL);
    const seen: string[] = [];
    machine.events.subscribe(({ type }) => seen.push(type));
    await Promise.all([machine.resume(), machine.resume(), machine.pause(), machine.pause(), machine.resume()]);
    await machine.close();
    await machine.close();
    expect(seen).toEqual(['resumed', 'paused', 'resumed', 'closed']);
    await expect(machine.resume()).rejects.toMatchObject({ code: 'GODWIT_INVALID_STATE' });
    await machine.pause();
  });

  kind.test('writes nothing while it is paused', async () => {
    const machine = await created(kind, SMALL);
    const guest = new ObservedGuest();
    guest.follow(machine);
    await machine.resume();
    await guest.moreBeats(3);
    await machine.pause();
    const before = contents(machine);
    const mailbox = Uint8Array.from(machine.ram.view(MAILBOX_ADDRESS, MAILBOX_PAGES * PAGE_SIZE));
    expect(mailbox.some((byte) => byte !== 0)).toBe(true);
    // Several periods of the mailbox and of the heartbeat.
    await sleep(60);
    expect(Buffer.compare(contents(machine), before)).toBe(0);
    expect(guest.problems).toEqual([]);
  });

  kind.test('goes on where it was in another machine', async () => {
    const guest = new ObservedGuest();
    let machine = await created(kind, SMALL);
    guest.follow(machine);
    await machine.resume();
    for (let hop = 0; hop < 4; hop++) {
      await guest.moreBeats(3);
      await machine.pause();
      const next = await arriving(kind, JSON.parse(JSON.stringify(machine.description)));
      expect(next.memory.allocatedBytes()).toBe(0);
      await moveGuest(machine, next);
      await machine.close();
      machine = next;
      guest.follow(machine);
      await machine.resume();
    }
    await guest.moreBeats(5);
    await machine.pause();
    expect(guest.problems).toEqual([]);
    guest.checkMemory(machine);
  });

  kind.test('the pause clock counts the time between two machines', async () => {
    const from = await created(kind, SMALL);
    const guest = new ObservedGuest();
    guest.follow(from);
    await from.resume();
    await guest.moreBeats(2);
    await from.pause();
    const left = from.guestMicroseconds;
    const to = await arriving(kind, from.description);
    await moveGuest(from, to);
    await sleep(30);
    expect(to.guestMicroseconds).toBeGreaterThanOrEqual(left);
    guest.follow(to);
    await to.resume();
    await guest.moreBeats(2);
    expect(guest.problems).toEqual([]);
    expect(guest.last?.clock).toBeGreaterThan(left);
  });

  kind.test('state of every device: saving twice gives the same, damaged bytes are refused', async () => {
    const machine = await created(kind, SMALL);
    const guest = new ObservedGuest();
    guest.follow(machine);
    await machine.resume();
    await guest.moreBeats(2);
    await machine.pause();
    const target = await arriving(kind, machine.description);
    for (const device of machine.devices) {
      const state = await savedState(device);
      const twin = target.devices.find(({ id }) => id === device.id);
      const load = (bytes: Uint8Array, version = device.version): Promise<void> | undefined =>
        twin?.load(
          (async function* () {
            yield bytes;
          })(),
          version,
        );
      const refused = { code: 'GODWIT_DEVICE_FAILED', message: expect.stringContaining(device.id) };
      for (const length of [0, 3, 4, 11, state.byteLength - 9, state.byteLength - 1]) {
        await expect(load(state.subarray(0, length))).rejects.toMatchObject(refused);
      }
      await expect(load(Buffer.concat([state, Uint8Array.of(0)]))).rejects.toMatchObject(refused);
      await expect(load(Uint8Array.from(state).fill(0x58, 4, 8))).rejects.toMatchObject(refused);
      await expect(load(state, device.version + 1)).rejects.toMatchObject(refused);
      await load(state);
      expect((await savedState(device)).byteLength).toBe(state.byteLength);
    }
  });

  kind.test('every page that changes is reported by a tracker, and only RAM that was written is', async () => {
    const machine = await created(kind, SMALL);
    const guest = new ObservedGuest();
    guest.follow(machine);
    await machine.resume();
    await guest.moreBeats(2);
    await machine.pause();
    for (const tracker of machine.trackers) await tracker.start();
    // The first report of a tracker may have pages that nobody wrote, since the first round sends every page.
    await harvested(machine);
    for (let round = 0; round < 5; round++) {
      const before = pagesOfMemory(machine);
      await machine.resume();
      await guest.moreBeats(2);
      await machine.pause();
      const dirty = await harvested(machine);
      const after = pagesOfMemory(machine);
      // A hole counts as a page of zeros: the guest reads a page before it first writes it, and that read populates the hole.
      const changed = [...after.keys()].filter(
        (page) => !(before.get(page) ?? ZERO_PAGE).equals(after.get(page) as Buffer),
      );
      expect(changed.length).toBeGreaterThan(10);
      expect(changed.filter((page) => !dirty.at(0).has(page))).toEqual([]);
      const mailbox = MAILBOX_ADDRESS / PAGE_SIZE;
      expect(changed.some((page) => page >= mailbox && page < mailbox + MAILBOX_PAGES)).toBe(true);
      // A page may be written with its old contents, so that a few more pages are dirty than have changed, and never all of RAM.
      expect(dirty.count()).toBeLessThan(after.size + 100);
    }
    for (const tracker of machine.trackers) await tracker.stop();
    expect(guest.problems).toEqual([]);
  });

  kind.test('throttled to almost nothing it still pauses, and it recovers', async () => {
    const machine = await created(kind, SMALL);
    const guest = new ObservedGuest();
    guest.follow(machine);
    await machine.resume();
    await guest.moreBeats(1);
    machine.throttle(0.99);
    await guest.moreBeats(1);
    for (let i = 0; i < 20; i++) {
      await machine.pause();
      await machine.resume();
    }
    machine.throttle(0.5);
    await guest.moreBeats(2);
    machine.throttle(0);
    await guest.moreBeats(3);
    expect(guest.problems).toEqual([]);
    expect(() => machine.throttle(1.5)).toThrow(RangeError);
  });

  kind.test('closing frees descriptors, threads, timers and memory', async () => {
    await (await kind.create(SMALL)).close();
    const before = { files: readdirSync('/proc/self/fd').length, resources: process.getActiveResourcesInfo().sort() };
    for (const runs of [true, false]) {
      const machine = await kind.create(SMALL);
      if (runs) await machine.resume();
      expect(readdirSync('/proc/self/fd').length).toBeGreaterThan(before.files);
      await Promise.all([machine.close(), machine.abandon(new Error('twice'))]);
      expect(machine.state).toBe('closed');
      expect(() => machine.ram.view(0, 1)).toThrow(GodwitError);
    }
    expect(readdirSync('/proc/self/fd')).toHaveLength(before.files);
    expect(process.getActiveResourcesInfo().sort()).toEqual(before.resources);
  });

  kind.test('has up to 8 vCPUs', async () => {
    const guest = new ObservedGuest();
    const machine = await created(kind, { ...SMALL, vcpus: 8 });
    guest.follow(machine);
    await machine.resume();
    await guest.moreBeats(3);
    await machine.pause();
    const next = await arriving(kind, machine.description);
    await moveGuest(machine, next);
    await machine.close();
    guest.follow(next);
    await next.resume();
    await guest.moreBeats(3);
    await next.pause();
    expect(guest.text).toContain('vcpus=8');
    expect(guest.problems).toEqual([]);
    guest.checkMemory(next);
  });

  kind.test('has RAM on both sides of the PCI hole, and takes only what is used', async () => {
    const guest = new ObservedGuest();
    const config = { ...SMALL, memoryBytes: 6 * 2 ** 30, overcommit: true };
    const machine = await created(kind, config);
    expect(
      machine.memory.blocks.map(({ id, guestPhysicalAddress, byteLength }) => [id, guestPhysicalAddress, byteLength]),
    ).toEqual([
      ['ram-low', 0, 3 * 2 ** 30],
      ['ram-high', 2 ** 32, 3 * 2 ** 30],
    ]);
    guest.follow(machine);
    await machine.resume();
    await guest.moreBeats(5);
    await machine.pause();
    expect(guest.problems).toEqual([]);
    guest.checkMemory(machine);
    const [low, high] = machine.memory.blocks.map((block) => [...(block.populated?.() ?? [])].length);
    expect(low).toBeGreaterThan(0);
    expect(high).toBeGreaterThan(0);
    expect(machine.memory.allocatedBytes()).toBeLessThan(16 * MIB);
  });

  kind.test('refuses shapes and descriptions that make no sense', async () => {
    const invalid = { code: 'GODWIT_INVALID_ARGUMENT' };
    for (const config of [
      { ...SMALL, vcpus: 0 },
      { ...SMALL, vcpus: 9 },
      { ...SMALL, memoryBytes: 4 * MIB },
      { ...SMALL, memoryBytes: 32 * MIB + 1 },
      { ...SMALL, workload: { workingSetBytes: 64 * MIB } },
    ]) {
      await expect(kind.create(config)).rejects.toMatchObject(invalid);
    }
    for (const description of [
      null,
      {},
      { kind: kind.kind, memoryBytes: 32 * MIB, vcpus: '2' },
      { kind: 'other', memoryBytes: 32 * MIB, vcpus: 2 },
      { kind: kind.kind, memoryBytes: -1, vcpus: 2 },
    ]) {
      await expect(kind.fromDescription(description)).rejects.toMatchObject(invalid);
    }
  });
});

/** One round's dirty pages, re-armed. */
async function harvested(machine: VirtualMachine): Promise<DirtyBitmaps> {
  const dirty = new DirtyBitmaps(machine.memory);
  for (const tracker of machine.trackers) await tracker.harvest(dirty);
  for (const tracker of machine.trackers) {
    for (const [index, { pageCount }] of dirty.blocks.entries()) tracker.rearm?.(index, 0, pageCount);
  }
  return dirty;
}

/** Contents of all populated pages of ram-low, by page number. */
function pagesOfMemory(machine: VirtualMachine): Map<number, Buffer> {
  const { pageSize, blocks } = machine.memory;
  const pages = new Map<number, Buffer>();
  for (const { firstPage, pageCount } of blocks[0]?.populated() ?? []) {
    for (let page = firstPage; page < firstPage + pageCount; page++) {
      pages.set(page, Buffer.from(Uint8Array.from(blocks[0]?.view(page * pageSize, pageSize) ?? [])));
    }
  }
  return pages;
}

/** All populated memory, block after block. */
function contents(machine: VirtualMachine): Buffer {
  const { pageSize, blocks } = machine.memory;
  return Buffer.concat(
    blocks.flatMap((block) =>
      [...block.populated()].map(({ firstPage, pageCount }) =>
        Uint8Array.from(block.view(firstPage * pageSize, pageCount * pageSize)),
      ),
    ),
  );
}
