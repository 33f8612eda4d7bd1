import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type MigratableVm, type MigrationEvent, type MigrationState, migrate, receive } from '@godwit/core';
import { Machine, type MachineConfig, SoftwareMachine, type VirtualMachine } from '@godwit/example-node-vmm';
import { PagemapTracker } from '@godwit/linux';
import { MapFlags, mmap, munmap } from '@godwit/linux/unstable';
import { connectTo, file, listenOn } from '@godwit/transport';
import { faultThreads, type WriteProtectionThreads, writeProtection } from '@godwit/workers';
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { forBothGuests, forKvm } from './guest-kinds.js';
import { GuestListener, type HeardSoFar, inspectGuest } from './guest-listener.js';

jest.setTimeout(300_000);

const MIB = 2 ** 20;
/**
 * The guest writes as fast as it can: every page of the working set is written again and again, right after the pause
 * too.
 */
const CONFIG: MachineConfig = {
  memoryBytes: 64 * MIB,
  vcpus: 2,
  workload: { workingSetBytes: 16 * MIB, pagesPerSecond: 0, order: 'random', console: 'serial' },
};
/** Bytes per second: so slow that the guest writes pages before these are saved. */
const SLOWLY = 64 * 1024;

let folder: string;
let path: string;
let background: WriteProtectionThreads;
const ending: (() => unknown)[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-background-'));
  path = join(folder, 'guest.snap');
  background = writeProtection();
});

afterEach(async () => {
  for (const end of ending.splice(0).reverse()) await end();
  await background.close();
  rmSync(folder, { recursive: true, force: true });
});

type Kind = typeof Machine | typeof SoftwareMachine;

/** A running guest, and the listener to its console. */
async function running(kind: Kind, config = CONFIG): Promise<{ machine: VirtualMachine; guest: GuestListener }> {
  const machine = await kind.create(config);
  ending.push(() => machine.close());
  const guest = new GuestListener();
  guest.follow(machine);
  await machine.resume();
  await guest.moreBeats(2);
  return { machine, guest };
}

/** The memory and the console at the moment of a snapshot. */
interface Moment {
  memory: readonly Buffer[];
  heard: HeardSoFar;
}

/** The machine as a VM whose memory is copied at the end of each pause; a snapshot has to equal this copy. */
function watched(machine: VirtualMachine, guest: GuestListener): MigratableVm & { readonly moments: Moment[] } {
  const moments: Moment[] = [];
  return {
    moments,
    memory: machine.memory,
    trackers: machine.trackers,
    devices: machine.devices,
    runState: () => machine.runState(),
    pause: (signal) => machine.pause(signal),
    async resume() {
      moments.push({
        memory: machine.memory.blocks.map((block) => Buffer.from(block.view(0, block.byteLength))),
        heard: guest.heard,
      });
      await machine.resume();
    },
  };
}

/**
 * Restores the snapshot into another machine; before the guest runs there, the memory is compared with that of the
 * moment.
 */
async function restoredAs(kind: Kind, { description }: VirtualMachine, { memory, heard }: Moment): Promise<void> {
  const guest = new GuestListener(heard);
  const links = await listenOn(file({ path, verify: true }));
  const machine = await kind.fromDescription(description);
  ending.push(() => machine.close());
  guest.follow(machine);
  let compared = 0;
  const { summary } = await receive(links, {
    prepare: () => ({
      memory: machine.memory,
      trackers: machine.trackers,
      devices: machine.devices,
      pause: () => machine.pause(),
      async resume() {
        for (const [i, block] of machine.memory.blocks.entries()) {
          const restored = Buffer.from(block.view(0, block.byteLength));
          expect(differingPages(memory[i] as Buffer, restored)).toEqual([]);
          compared += block.byteLength;
        }
        await machine.resume();
      },
    }),
  }).result;
  await links.close();
  expect([summary.verified, compared]).toEqual([true, CONFIG.memoryBytes]);
  await expectAlive(machine, guest);
}

function populatedBytes({ memory }: VirtualMachine): number {
  const runs = memory.blocks.flatMap((block) => [...block.populated()]);
  return runs.reduce((sum, { pageCount }) => sum + pageCount * memory.pageSize, 0);
}

function differingPages(a: Buffer, b: Buffer): number[] {
  const pages: number[] = [];
  for (let at = 0; at < a.length; at += 4096) {
    if (a.compare(b, at, at + 4096, at, at + 4096) !== 0) pages.push(at / 4096);
  }
  return pages;
}

/**
 * Checks that the guest goes on where it was, and that both the guest and the test find its memory right. The guest
 * runs afterwards.
 */
async function expectAlive(machine: VirtualMachine, guest: GuestListener): Promise<void> {
  await guest.moreBeats(3);
  await machine.pause();
  const { defects } = inspectGuest(machine);
  expect({ defects, problems: guest.problems }).toEqual({ defects: [], problems: [] });
  await machine.resume();
}

function pagemapOf({ blocks }: VirtualMachine['memory']): PagemapTracker {
  const ranges = blocks.map(({ hostAddress: address, byteLength }, blockIndex) => ({
    ...{ address, byteLength, blockIndex, firstPage: 0 },
  }));
  return new PagemapTracker({ ranges });
}

/** Checks that no thread waits for a page, and that the memory can be protected again. */
function expectUnprotected(machine: VirtualMachine): void {
  expect(background.blockers(machine.memory)).toEqual([]);
}

const states = (events: readonly MigrationEvent[]): MigrationState[] =>
  events.flatMap((event) => (event.type === 'state' ? [event.state] : []));

forBothGuests((_options, kindName) => {
  const kind: Kind = kindName === 'kvm' ? Machine : SoftwareMachine;

  test.each(kindName === 'kvm' ? (['random', 'sequential'] as const) : (['random'] as const))(
    'a guest that writes flat out (%s) is saved as it was at one moment, twice, and runs on here',
    async (order) => {
      const { machine, guest } = await running(kind, { ...CONFIG, workload: { ...CONFIG.workload, order } });
      const vm = watched(machine, guest);
      while (populatedBytes(machine) < 8 * MIB) await guest.moreBeats(1);
      for (const time of [0, 1]) {
        const events: MigrationEvent[] = [];
        const saving = migrate(vm, connectTo(file({ path })), {
          background,
          description: machine.description,
          bandwidthLimit: SLOWLY,
          pauseLimitMs: 0,
          progressIntervalMs: 5,
        });
        saving.subscribe((event) => {
          events.push(event);
          if (event.type === 'protection' && event.protection.pagesCopied > 0) saving.adjust({ bandwidthLimit: 0 });
        });
        const summary = await saving.result;
        expect([saving.state, saving.ownership, machine.state]).toEqual(['completed', 'running', 'running']);
        // The file already has its final name.
        expect(saving.cancel()).toBe(false);
        expect(states(events)).toEqual(['setup', 'active', 'device', 'active', 'completed']);
        expect(readdirSync(folder)).toEqual(['guest.snap']);
        const { protection } = summary.background as NonNullable<typeof summary.background>;
        expect(protection).toMatchObject({ pagesLeft: 0, bufferedBytes: 0 });
        expect(protection.pagesTotal).toBe(summary.pages.raw + summary.pages.zero);
        // Pages that were written before they were saved, and whose old contents were saved.
        expect(protection.pagesCopied).toBeGreaterThan(0);
        const latencies = protection.latencyDistribution.reduce((sum, count) => sum + count, 0);
        expect(latencies).toBeLessThanOrEqual(protection.faults);
        expect(latencies).toBeGreaterThan(0);
        expect(summary.downtimeMs).toBe(summary.background?.pausedMs);
        expect(events.findLast(({ type }) => type === 'protection')).toEqual({ type: 'protection', protection });
        expectUnprotected(machine);
        await restoredAs(kind, machine, vm.moments[time] as Moment);
      }
      await expectAlive(machine, guest);
    },
  );

  test.each(kindName === 'kvm' ? ['setup', 'active', 'device', 'saving'] : ['saving'])(
    'cancelled in %s, it leaves a guest that runs unprotected, and no file',
    async (when) => {
      const { machine, guest } = await running(kind);
      const vm = watched(machine, guest);
      const options = { background, description: machine.description, bandwidthLimit: SLOWLY, pauseLimitMs: 0 };
      const saving = migrate(vm, connectTo(file({ path })), options);
      let seen = 0;
      saving.subscribe((event) => {
        if (event.type !== 'state') return;
        if (event.state === 'active') seen++;
        if (event.state === when || (when === 'saving' && seen === 2)) saving.cancel('no longer wanted');
      });
      await expect(saving.result).rejects.toMatchObject({ code: 'GODWIT_CANCELLED' });
      expect([saving.state, saving.ownership, machine.state]).toEqual(['cancelled', 'kept', 'running']);
      expect(readdirSync(folder)).toEqual([]);
      expectUnprotected(machine);
      await expectAlive(machine, guest);
      // The next snapshot succeeds.
      const moments = vm.moments.length;
      await migrate(vm, connectTo(file({ path })), { ...options, bandwidthLimit: 0 }).result;
      await restoredAs(kind, machine, vm.moments[moments] as Moment);
    },
  );

  test('a disk that is full in the middle leaves the guest running, and no file', () => {
    const program = join(import.meta.dirname, 'background-source.js');
    const { stdout, stderr } = spawnSync(process.execPath, [program, path, kindName], {
      encoding: 'utf8',
      timeout: 240_000,
    });
    expect(stderr).toBe('');
    expect(JSON.parse(stdout)).toEqual({
      code: 'GODWIT_SYSCALL',
      message: expect.stringMatching(/writing the snapshot .* failed: EFBIG/),
      state: 'running',
      ownership: 'kept',
      blockers: [],
      files: [],
      problems: [],
      defects: [],
    });
  });
});

forKvm(() => {
  test('a guest whose user has paused it stays paused, here and there', async () => {
    const { machine, guest } = await running(Machine);
    await machine.pause();
    const vm = watched(machine, guest);
    const summary = await migrate(vm, connectTo(file({ path })), {
      background,
      description: machine.description,
      pauseLimitMs: 0,
    }).result;
    expect([summary.runState, machine.state, vm.moments.length]).toEqual(['paused', 'paused', 0]);
    await machine.resume();
    await expectAlive(machine, guest);
  });

  test('what it saves may run at once', async () => {
    const { machine, guest } = await running(Machine);
    const vm = watched(machine, guest);
    const options = { background, description: machine.description, pauseLimitMs: 0 };
    await migrate(vm, connectTo(file({ path })), options).result;
    const faults = faultThreads();
    ending.push(() => faults.close());
    const copy = await Machine.fromDescription(machine.description);
    ending.push(() => copy.close());
    const listener = new GuestListener(vm.moments[0]?.heard);
    listener.follow(copy);
    const { summary } = await receive(await listenOn(file({ path })), { prepare: () => copy, run: 'at once', faults })
      .result;
    expect(summary.faults).toMatchObject({ pagesMissing: 0, pagesLost: 0 });
    await expectAlive(copy, listener);
  });

  const refusals: Record<string, (machine: VirtualMachine) => Partial<MigratableVm>> = {
    'has pages that are pinned': ({ memory }) => {
      const unpin = memory.blocks[0]?.pin?.({ firstPage: 3, pageCount: 1 });
      ending.push(() => unpin?.());
      return {};
    },
    'through another mapping of its memory file': ({ memory }) => {
      const { fd } = memory.blocks[0] as { fd: number };
      const address = mmap({ byteLength: MIB, flags: MapFlags.MAP_SHARED, fd });
      ending.push(() => munmap(address, MIB));
      return {};
    },
    'device "chipset" accesses memory without page faults: its DMA': ({ devices }) => {
      const chipset = devices.find(({ id }) => id === 'chipset') as { wholeMemory?: string | undefined };
      chipset.wholeMemory = 'its DMA cannot wait';
      ending.push(() => {
        chipset.wholeMemory = undefined;
      });
      return { devices };
    },
    'wait until the pagemap tracker is stopped': ({ memory }) => {
      const tracker = pagemapOf(memory);
      void tracker.start();
      ending.push(() => tracker.stop());
      return {};
    },
    'is declared shared': ({ memory }) => {
      for (const block of memory.blocks) block.shared = true;
      ending.push(() => {
        for (const block of memory.blocks) block.shared = undefined;
      });
      return {};
    },
  };

  test('what makes it impossible refuses it before anything is touched', async () => {
    const { machine, guest } = await running(Machine, { ...CONFIG, memoryFiles: true });
    const own = ending.length;
    for (const [reason, change] of Object.entries(refusals)) {
      const changes = change(machine);
      const vm = watched(machine, guest);
      const pause = jest.fn(vm.pause);
      const saving = migrate({ ...vm, ...changes, pause }, connectTo(file({ path })), { background });
      await expect(saving.result).rejects.toMatchObject({
        code: 'GODWIT_BLOCKED',
        message: expect.stringContaining(reason),
      });
      expect([pause.mock.calls.length, readdirSync(folder), machine.state]).toEqual([0, [], 'running']);
      for (const end of ending.splice(own).reverse()) await end();
    }
    expectUnprotected(machine);
    await expectAlive(machine, guest);
  });

  test('memory whose tracker is the pagemap can be saved, since nobody starts it', async () => {
    const { machine, guest } = await running(Machine);
    const vm = { ...watched(machine, guest), trackers: [pagemapOf(machine.memory)] };
    await migrate(vm, connectTo(file({ path })), { background, description: machine.description, pauseLimitMs: 0 })
      .result;
    await restoredAs(Machine, machine, vm.moments[0] as Moment);
  });
});
