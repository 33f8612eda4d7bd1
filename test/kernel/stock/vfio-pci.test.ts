import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DirtyBitmaps, migrate, receive, roundCap } from '@godwit/core';
import { memoryLink } from '@godwit/core/testing';
import { createGuestMemory, type MappedGuestMemory } from '@godwit/linux';
import { DmaLoggingTracker, Type1Container, VfioDevice, VfioGroup, VfioType1Tracker } from '@godwit/vfio';
import { DeviceMigration } from '@godwit/vfio/unstable';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { EduDmaEngine, EduPciDevice } from '../guest/edu-device.js';
import { PAGE } from '../guest/page-memory.js';

/** A device behind an IOMMU without a log: every mapped page is dirty at every harvest. */

/** The repository; this file runs compiled, in test/dist/kernel/stock. */
const ROOT = join(import.meta.dirname, '..', '..', '..', '..');

let edu: EduPciDevice;
let group: VfioGroup;
let container: Type1Container;
let device: VfioDevice;
let memory: MappedGuestMemory;
let tracker: VfioType1Tracker;

beforeEach(async () => {
  edu = new EduPciDevice();
  group = VfioGroup.open(edu.group);
  container = Type1Container.open([group]);
  memory = createGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 300 * PAGE }] });
  await container.mapMemory(memory);
  device = VfioDevice.open(group, edu.name);
  tracker = new VfioType1Tracker(container, memory);
});
afterEach(async () => {
  await tracker.stop();
  device.close();
  container.close();
  group.close();
  memory.close();
  edu.remove();
});

test('the addresses that it may use leave out the window of interrupts, and mapping there is refused in words', async () => {
  expect(container.info.iovaRanges?.[0]).toEqual({ start: 0n, last: 0xfedfffffn });
  const hostAddress = memory.blocks[0]?.hostAddress as bigint;
  const inside = { iova: 0xfee0_0000, guestPhysicalAddress: 0xfee0_0000, byteLength: PAGE, hostAddress };
  await expect(container.map(inside)).rejects.toMatchObject({
    code: 'GODWIT_INVALID_ARGUMENT',
    message: expect.stringMatching(/cannot be reached by the devices, which address 0x0\.\.0xfedfffff/),
  });
});

test('whatever it does, every mapped page is dirty, and the statistics say so', async () => {
  const dma = new EduDmaEngine(device.fd);
  await tracker.start();
  for (let harvests = 1; harvests <= 3; harvests++) {
    if (harvests === 2) {
      memory.blocks[0]?.view(0, 8).fill(0x5a);
      await dma.copy(0, 7 * PAGE, 64);
      expect(memory.blocks[0]?.view(7 * PAGE, 8)).toEqual(new Uint8Array(8).fill(0x5a));
    }
    const into = new DirtyBitmaps(memory);
    await tracker.harvest(into);
    expect(into.count()).toBe(300);
    expect(tracker.lastHarvest).toEqual({ mappedPages: 300, dirtyPages: 300, allDirtyInARow: harvests });
  }
  dma.close();
});

test('a migration that cannot converge for it says which tracker is why', async () => {
  const vm = { memory, trackers: [tracker], devices: [], pause: async () => {}, resume: async () => {} };
  const other = createGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 300 * PAGE }] });
  const link = memoryLink();
  const incoming = receive(link.listener, { prepare: () => ({ ...vm, memory: other, trackers: [] }) });
  incoming.subscribe({ error: () => {} });
  const migration = migrate(vm, link.connector, { downtimeLimitMs: 0, policy: roundCap(3, 'abort') });
  const trackers: unknown[] = [];
  migration.subscribe({
    next: (event) => event.type === 'round' && trackers.push(event.round.trackers),
    error: () => {},
  });
  await expect(migration.result).rejects.toMatchObject({
    code: 'GODWIT_NOT_CONVERGING',
    message: expect.stringMatching(/of 300 dirty pages the tracker "vfio-type1" reported 300/),
  });
  await incoming.result.catch(() => {});
  const { name, blindSpots } = tracker;
  expect(trackers).toEqual(Array(3).fill([{ name, dirtyPages: 300, exact: false, failed: false, blindSpots }]));
  other.close();
});

test('at the destination too: memory that it has mapped is not discarded, and its DMA is in the guest afterwards', async () => {
  const source = createGuestMemory({ blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 300 * PAGE }] });
  const text = new TextEncoder().encode('moved, then copied by DMA');
  source.blocks[0]?.view(5 * PAGE, text.length).set(text);
  const [ram] = memory.blocks;
  // The memory has bytes of the embedder that are not the source's: 299 pages have to become zero, without their memory
  // being discarded.
  ram?.view(0, 300 * PAGE).fill(0xee);
  const still = { trackers: [], devices: [], pause: async () => {}, resume: async () => {} };
  const link = memoryLink();
  const incoming = receive(link.listener, { prepare: () => ({ ...still, memory }) });
  incoming.subscribe({ error: () => {} });
  const nothing = { name: 'nothing', start: async () => {}, stop: async () => {}, harvest: async () => {} };
  const migration = migrate({ ...still, memory: source, trackers: [nothing] }, link.connector, { verify: true });
  migration.subscribe({ error: () => {} });
  const [moved] = await Promise.all([migration.result, incoming.result]);
  expect(moved.verified).toBe(true);
  expect(ram?.view(200 * PAGE, 8)).toEqual(new Uint8Array(8));
  const dma = new EduDmaEngine(device.fd);
  await dma.copy(5 * PAGE, 200 * PAGE, text.length);
  dma.close();
  expect(ram?.view(200 * PAGE, text.length)).toEqual(text);
  // The same at both ends: memory that is mapped for a device is not discarded until it is unmapped.
  const range = { firstPage: 100, pageCount: 100 };
  expect(ram?.discard(range)).toBe(false);
  for (const mapping of container.mappings) await container.unmap(mapping);
  expect(ram?.discard(range)).toBe(true);
  source.close();
});

test('it can neither migrate nor log its DMA, and says so', () => {
  expect(() => new DeviceMigration(device)).toThrow(expect.objectContaining({ code: 'GODWIT_UNSUPPORTED' }));
  expect(DmaLoggingTracker.supports(device)).toBe(false);
});

test('the program in the README runs', () => {
  device.close();
  container.close();
  group.close();
  const readme = readFileSync(join(ROOT, 'packages/vfio/README.md'), 'utf8');
  const program = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] as string;
  const run = spawnSync(process.execPath, ['--input-type=module', '--eval', program], {
    cwd: join(ROOT, 'packages/vfio'),
    env: { ...process.env, DEVICE: join('/sys/bus/pci/devices', edu.name) },
    encoding: 'utf8',
  });
  expect([run.status, run.stderr]).toEqual([0, '']);
  const lines = run.stdout.trim().split('\n');
  expect(lines.filter((line) => /^[1-9]\d* pages\/s$/.test(line))).toHaveLength(20);
  // All ranges are equally hot.
  expect(lines).toContain('[ 0, 512, 1024 ]');
}, 120_000);
