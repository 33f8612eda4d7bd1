import type { MigratableDevice } from '@godwit/core';
import { ToyVm } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { expectStayed, start, type Toy } from './toy-migration.js';

const PAGE = 4096;
const RAM = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE }];
/** The destination holds this much; the device "gpu" saves sixteen times as much. */
const MOST = 64 * 1024;
/** The page that the clock's load writes. */
const CLOCK_PAGE = 3;

interface Kind {
  /** Pages that the clock writes while it is saved, and the gpu once all of its state was yielded. */
  readonly clockSaveWrites?: readonly number[];
  readonly gpuSaveWrites?: readonly number[];
  /** Whether the gpu says that its load writes nothing. */
  readonly gpuTells?: boolean;
}

/** A machine with a clock, whose load writes a page of guest memory, and a gpu with more state than the destination holds. */
function machine(running: boolean, { clockSaveWrites = [], gpuSaveWrites = [], gpuTells = true }: Kind): ToyVm {
  const vm = new ToyVm(RAM, { running });
  const write = (page: number, value: number) => vm.deviceWrite(0, page * PAGE, new Uint8Array(PAGE).fill(value));
  const clock: MigratableDevice = {
    ...{ id: 'clock', version: 1 },
    async *save() {
      for (const page of clockSaveWrites) write(page, 7);
      yield Uint8Array.of(1);
    },
    async load(state) {
      for await (const _ of state);
      write(CLOCK_PAGE, 9);
    },
    loadWrites: () => [{ block: 0, firstPage: CLOCK_PAGE, pageCount: 1 }],
  };
  const gpu: MigratableDevice = {
    ...{ id: 'gpu', version: 1 },
    async *save() {
      for (let i = 0; i < 16; i++) yield new Uint8Array(MOST);
      for (const page of gpuSaveWrites) write(page, 8);
    },
    async load(state) {
      for await (const _ of state);
    },
    ...(gpuTells ? { loadWrites: () => [] } : {}),
  };
  vm.devices = [clock, gpu];
  return vm;
}

function begin(kind: Kind): Toy {
  const source = machine(true, kind);
  for (let page = 0; page < 64; page++) source.write(0, page * PAGE, new Uint8Array(PAGE).fill(1));
  return start({
    ...{ source, destination: machine(false, kind) },
    migrate: { force: true },
    receive: { maximumDeviceState: MOST },
  });
}

const firstByte = (vm: ToyVm, page: number) => vm.memory.blocks[0]?.view(page * PAGE, 1)[0];

test('pages that saving has written are sent before a device is loaded early: what its load writes stays', async () => {
  const toy = begin({ clockSaveWrites: [CLOCK_PAGE, 5] });
  const { code } = await toy.settled();
  expect(code).toBeUndefined();
  expect([firstByte(toy.destination, CLOCK_PAGE), firstByte(toy.destination, 5)]).toEqual([9, 7]);
});

/** The rounds of the stop-and-copy: their numbers and pages, at their starts and in their records. */
function pausedRounds({ events }: Toy) {
  const begun = events.findIndex(({ type }) => type === 'switchover-start');
  return events.slice(begun).flatMap((event) => {
    if (event.type === 'round-start') return [`${event.round} begins: ${event.dirtyPages}`];
    return event.type === 'round' ? [`${event.round.round} ends: ${event.round.dirtyPages}`] : [];
  });
}

test.each([
  ['no page', [], []],
  ['one page', [CLOCK_PAGE], ['3 begins: 1', '3 ends: 1']],
  ['two pages', [CLOCK_PAGE, 5], ['3 begins: 2', '3 ends: 2']],
])('saving has written %s by then: a round has them, after the end of the one before', async (_, pages, more) => {
  const toy = begin({ clockSaveWrites: pages });
  const { code } = await toy.settled();
  expect(code).toBeUndefined();
  expect(pausedRounds(toy)).toEqual(['2 begins: 0', '2 ends: 0', ...more]);
  expect(firstByte(toy.destination, CLOCK_PAGE)).toBe(9);
});

test('a page that comes later, and that no load writes, does no harm', async () => {
  const toy = begin({ gpuSaveWrites: [5] });
  const { code } = await toy.settled();
  expect(code).toBeUndefined();
  expect([firstByte(toy.destination, CLOCK_PAGE), firstByte(toy.destination, 5)]).toEqual([9, 8]);
});

test('one that a load has written ends the migration, with the guest at the source', async () => {
  const toy = begin({ gpuSaveWrites: [CLOCK_PAGE] });
  const ends = await toy.settled();
  expectStayed(toy, ends, 'GODWIT_DEVICE_FAILED');
  expect(ends.sent).toMatchObject({
    reason: {
      message: expect.stringMatching(
        /larger than the destination holds \(65536 bytes\).*device "clock" was loaded before.*its load has written.*Raise maximumDeviceState$/,
      ),
    },
  });
});

test('so does one that a load may have written, where its device does not tell', async () => {
  const toy = begin({ gpuSaveWrites: [5], gpuTells: false });
  const ends = await toy.settled();
  expectStayed(toy, ends, 'GODWIT_DEVICE_FAILED');
  expect(ends.sent).toMatchObject({
    reason: {
      message: expect.stringMatching(/device "gpu" was loaded before.*may have written.*tell with loadWrites\(\)/),
    },
  });
});
