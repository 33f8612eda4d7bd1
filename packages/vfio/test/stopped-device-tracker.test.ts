import {
  DirtyBitmaps,
  firstOpinion,
  type MigrationEvent,
  migrate,
  receive,
  roundCap,
  withinDowntimeLimit,
} from '@godwit/core';
import { memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import {
  chooseTrackers,
  type DmaMapping,
  StoppedDeviceTracker,
  Type1Container,
  trackersOf,
  VfioDevice,
  VfioDeviceSet,
  VfioMigratableDevice,
  VfioType1Tracker,
} from '@godwit/vfio';
import type { DeviceModel, DeviceModelOptions } from '@godwit/vfio/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { errorOf } from './error-of.js';
import { dirtyPages, type ModelledVm, modelledVm, PAGE } from './model.js';
import { closeSides, modelSide } from './model-side.js';

/** `trackDuringPrecopy: false`: what a device that nobody watches can reach moves when it is stopped. */

const opened: { close(): void }[] = [];
afterEach(() => {
  for (const thing of opened.splice(0).reverse()) thing.close();
  closeSides();
});

async function unwatched(options: DeviceModelOptions = {}, pages: readonly number[] = [16, 8]) {
  const vm: ModelledVm = await modelledVm(pages, {}, { devices: { nic: options } });
  opened.push(vm);
  const device = VfioDevice.open(vm.group, 'nic', vm.model);
  opened.push(device);
  const model = vm.model.devices.get('nic') as DeviceModel;
  const harvested = async (tracker: StoppedDeviceTracker): Promise<string[]> => {
    const into = new DirtyBitmaps(vm.memory);
    await tracker.harvest(into);
    return dirtyPages(vm.memory, into);
  };
  return { ...vm, kernel: vm.model, device, model, harvested };
}

const pagesOf = (block: number, first: number, count: number) =>
  Array.from({ length: count }, (_, i) => `${block}:${first + i}`);
const ALL = [...pagesOf(0, 0, 16), ...pagesOf(1, 0, 8)];

describe('a device that nobody watches', () => {
  test('reports nothing while it runs, and all that it reaches once each time that it has been stopped', async () => {
    const { device, container, memory, model, harvested } = await unwatched();
    const tracker = new StoppedDeviceTracker(device, container, memory);
    await tracker.start();
    for (let stop = 0; stop < 2; stop++) {
      for (const state of ['RUNNING', 'PRE_COPY', 'PRE_COPY_P2P', 'RUNNING_P2P'] as const) {
        model.state = state;
        expect([state, await harvested(tracker)]).toEqual([state, []]);
      }
      model.state = stop === 0 ? 'STOP' : 'STOP_COPY';
      expect(await harvested(tracker)).toEqual(ALL);
      // It has written nothing since.
      expect(await harvested(tracker)).toEqual([]);
    }
    await tracker.stop();
    await tracker.stop();
    expect((await errorOf(() => harvested(tracker))).code).toBe('GODWIT_INVALID_STATE');
  });

  test('what it will report is known before: all that is mapped then', async () => {
    const { device, container, memory, model, harvested } = await unwatched();
    const tracker = new StoppedDeviceTracker(device, container, memory);
    await tracker.start();
    const owed = (): string[] => {
      const into = new DirtyBitmaps(memory);
      tracker.whenStopped(into);
      return dirtyPages(memory, into);
    };
    expect(owed()).toEqual(ALL);
    await container.unmap(container.mappings[1] as DmaMapping);
    expect(owed()).toEqual(pagesOf(0, 0, 16));
    // It may have been written before it went, and cannot be any more.
    expect(await harvested(tracker)).toEqual(pagesOf(1, 0, 8));
    expect(await harvested(tracker)).toEqual([]);
    model.state = 'STOP';
    expect(await harvested(tracker)).toEqual(pagesOf(0, 0, 16));
    expect(owed()).toEqual([]);
    await tracker.stop();
  });

  test('whose state cannot be read: everything is dirty, and the harvest fails', async () => {
    const { device, container, memory, model } = await unwatched();
    const tracker = new StoppedDeviceTracker(device, container, memory);
    await tracker.start();
    model.ioctl = () => -5;
    const into = new DirtyBitmaps(memory);
    expect((await errorOf(() => tracker.harvest(into))).code).toBe('GODWIT_TRACKER_FAILED');
    expect(dirtyPages(memory, into)).toEqual(ALL);
    await tracker.stop();
  });

  test('is chosen when it is asked for, whatever else there is, and only for a device that can be stopped', async () => {
    const { device, container, memory } = await unwatched({ logging: true });
    const [choice] = await chooseTrackers([{ device, space: container, trackDuringPrecopy: false }], memory);
    expect([choice?.tracker.name, choice?.passedOver]).toEqual(['vfio-stopped nic', ['trackDuringPrecopy is false']]);
    const fixed = await unwatched({ migrationFlags: 0 });
    const error = await errorOf(() =>
      chooseTrackers([{ device: fixed.device, space: fixed.container, trackDuringPrecopy: false }], fixed.memory),
    );
    expect(error.code).toBe('GODWIT_UNSUPPORTED');
  });
});

/** A VM of 2,048 pages over 10 MB/s, whose device writes to the last moment; what became of it. */
async function moved(downtimeLimitMs: number, trackDuringPrecopy = false) {
  const clock = new VirtualClock();
  const blocks = [{ id: 'ram0', guestPhysicalAddress: 0, byteLength: 2048 * PAGE }];
  const { memory, container, device, model } = await unwatched({}, [2048]);
  const tracker = trackersOf(await chooseTrackers([{ device, space: container, trackDuringPrecopy }], memory));
  const set = new VfioDeviceSet([new VfioMigratableDevice({ device, kind: 'mdev:model', id: 'd0' })]);
  const toy = new ToyVm(blocks, { running: true });
  const ram = memory.blocks[0] as { view(offset: number, length: number): Uint8Array };
  const source = {
    memory,
    trackers: toy.trackers,
    devices: [],
    pause: () => toy.pause(),
    resume: () => toy.resume(),
  };
  for (let page = 0; page < 2048; page++) ram.view(page * PAGE, PAGE).fill(page + 1);
  // It writes as long as it may, the last time on its way to STOP_COPY.
  let writes = 0;
  model.onState = (state) => {
    if (state !== 'STOP') ram.view(1000 * PAGE, 1)[0] = ++writes;
  };
  const there = modelSide([{}], { running: false });
  const target = new ToyVm(blocks, { running: false });
  const link = memoryLink({ clock, bytesPerSecond: 1e7 });
  const incoming = receive(link.listener, { prepare: () => there.set.attachTo(target), clock });
  const migration = migrate(set.attachTo(source, tracker), link.connector, {
    clock,
    downtimeLimitMs,
    policy: firstOpinion(withinDowntimeLimit, roundCap(8, 'abort')),
  });
  const events: MigrationEvent[] = [];
  migration.subscribe((event) => events.push(event));
  const [sent] = await Promise.allSettled([migration.result]);
  if (sent?.status === 'rejected') incoming.cancel();
  await incoming.result.catch(() => {});
  const rounds = events.flatMap((event) => (event.type === 'round' ? [event.round] : []));
  return { sent, rounds, ram, target, writes: () => writes, running: () => toy.running, visited: model.visited };
}

describe('in a migration', () => {
  test('its pages are in every predicted downtime, and a limit that they exceed is not reached', async () => {
    const { sent, rounds, visited, running } = await moved(300);
    expect(sent).toMatchObject({ reason: { code: 'GODWIT_NOT_CONVERGING' } });
    expect(running()).toBe(true);
    // Held back, and let go again before it was stopped.
    expect(visited).toContain('PRE_COPY_P2P');
    expect(visited).not.toContain('STOP_COPY');
    for (const { prediction, newlyDirtyPages } of rounds) {
      expect(newlyDirtyPages).toBe(0);
      // 8 MiB over 10 MB/s.
      expect(prediction.ramMs).toBeGreaterThan(800);
      expect(prediction.ramMs).toBeLessThan(1000);
    }
  });

  test('they move when it has been stopped, with what it wrote last', async () => {
    const { sent, ram, target, writes } = await moved(1500);
    expect(sent).toMatchObject({ status: 'fulfilled' });
    expect(writes()).toBeGreaterThan(1);
    const arrived = target.memory.blocks[0]?.view(0, 2048 * PAGE) as Uint8Array;
    expect(Buffer.compare(arrived, ram.view(0, 2048 * PAGE))).toBe(0);
    expect(arrived[1000 * PAGE]).toBe(writes());
    if (sent?.status === 'fulfilled') {
      const { predictedDowntimeMs, downtimeMs } = sent.value;
      expect(downtimeMs).toBeGreaterThan(800);
      expect(Math.abs(predictedDowntimeMs - downtimeMs)).toBeLessThan(0.2 * downtimeMs);
    }
  });
});

test('reasons of trackers block the migration before anything is tracked, and a dry run tells them', async () => {
  const { memory, container, device, model, kernel } = await unwatched({}, [64]);
  expect(new VfioType1Tracker(container, memory).migrationBlocker()).toBeUndefined();
  // One that somebody has mapped: a page more than a bitmap of 256 MiB is for.
  const large = { iova: 0, guestPhysicalAddress: 0, byteLength: 2 ** 43 + PAGE };
  const adopted = Type1Container.adopt(container.fd, [large], kernel);
  const plain = await modelledVm([64], { tracking: false }, { devices: { nic: {} } });
  opened.push(plain);
  const unseen = VfioDevice.open(plain.group, 'nic', plain.model);
  opened.push(unseen);
  const trackers = trackersOf([
    ...(await chooseTrackers([{ device, space: adopted }], memory)),
    ...(await chooseTrackers([{ device: unseen, space: plain.container }], memory)),
  ]);
  const clock = new VirtualClock();
  for (const dryRun of [true, false]) {
    const blocks = [{ id: 'ram0', guestPhysicalAddress: 0, byteLength: 64 * PAGE }];
    const [from, to] = [new ToyVm(blocks), new ToyVm(blocks, { running: false })];
    const link = memoryLink({ clock });
    const incoming = receive(link.listener, { prepare: () => to, clock });
    const migration = migrate(
      { memory, trackers, devices: [], pause: () => from.pause(), resume: () => from.resume() },
      link.connector,
      {
        clock,
        dryRun,
      },
    );
    const events: MigrationEvent[] = [];
    migration.subscribe((event) => events.push(event));
    await expect(migration.result).rejects.toMatchObject({
      code: 'GODWIT_BLOCKED',
      message: expect.stringMatching(/larger than the kernel's dirty bitmaps.*nobody would see what nic writes/),
    });
    const report = events.find((event) => event.type === 'dry-run')?.report;
    if (dryRun) {
      expect(report?.blockers).toEqual([
        `tracker "vfio-type1": the mapping of ${2 ** 43 + PAGE} bytes at IOVA 0x0 is larger than the kernel's dirty bitmaps can be (268435456 bytes, for ${2 ** 43 - 64 * PAGE}): map the memory in smaller pieces (mapMemory does)`,
        expect.stringMatching(/^tracker "vfio-unseen nic": nobody would see what nic writes/),
      ]);
    }
    incoming.cancel();
    await incoming.result.catch(() => {});
  }
  expect(model.visited).toEqual([]);
});
