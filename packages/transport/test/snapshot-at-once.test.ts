import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type FaultService,
  type FaultStatus,
  GodwitError,
  type IncomingEvent,
  type IncomingMigration,
  type MissingMemory,
  migrate,
  type PageSource,
  type PagesToServe,
  type ReceiveOptions,
  receive,
} from '@godwit/core';
import { makeFromRecipe, type ThreadRecipe } from '@godwit/core/pages';
import type { ToyVm } from '@godwit/core/testing';
import { connectTo, file, listenOn, memory } from '@godwit/transport';
import { afterAll, expect, test } from '@jest/globals';
import { forge, readMetadata, sha256 } from './snapshot-forge.js';
import { BLOCKS, fill, machine, PAGE, pageOf, save, snapshotFolder, statesOf } from './snapshot-machine.js';

const { newPath, close } = await snapshotFolder();
afterAll(close);

const SAVED = fill(machine());
const SNAPSHOT = newPath();
await save(SAVED, SNAPSHOT);
const WHOLE = readFileSync(SNAPSHOT);
const METADATA = readMetadata(WHOLE);

/** Serves faults as threads would, on this one: pages come when the test says so. */
class PlayedService implements FaultService {
  reasons: readonly string[] = [];
  request: PagesToServe | undefined;
  source: PageSource | undefined;
  /** What was loaded when the service began. */
  statesAtBegin: readonly string[] = [];
  ended = 0;
  /** Whether the guest ran when the rest was to be loaded. */
  loadedRest: boolean | undefined;
  resolve: () => void = () => {};
  reject: (error: GodwitError) => void = () => {};
  readonly whenEnded: Promise<void>;
  readonly #vm: ToyVm;
  #markEnded: () => void = () => {};

  constructor(vm: ToyVm) {
    this.#vm = vm;
    this.whenEnded = new Promise((resolve) => {
      this.#markEnded = resolve;
    });
  }

  async ready(): Promise<void> {}

  blockers(): readonly string[] {
    return this.reasons;
  }

  async serve(request: PagesToServe): Promise<MissingMemory> {
    this.request = request;
    this.statesAtBegin = statesOf(this.#vm);
    this.source = (await makeFromRecipe(request.source as ThreadRecipe, 'a PageSource')) as PageSource;
    const whole = new Promise<void>((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    whole.catch(() => {});
    const status = { pagesMissing: 1, pagesTotal: 2 } as FaultStatus;
    return {
      whole,
      loadRest: () => {
        this.loadedRest = this.#vm.running;
      },
      status: () => status,
      present: async () => {},
      askOver: () => {},
      sink: () => ({ bytes: new Uint8Array(), put: () => {}, putZero: () => {} }),
      sinkRecipe: { module: undefined, make: 'none', options: undefined },
      arrived: () => {},
      missing: () => request.contents,
      undo: async () => {},
      end: async () => {
        this.ended++;
        this.#markEnded();
      },
    };
  }

  /** Pages that are to come, of a block. */
  contents(block: number): number[] {
    const bitmap = this.request?.contents.at(block);
    const pages: number[] = [];
    for (let page = bitmap?.nextDirty(0) ?? -1; page !== -1; page = bitmap?.nextDirty(page + 1) ?? -1) pages.push(page);
    return pages;
  }

  /** Brings pages; throws what the source throws, with the page that it names. */
  bring(block: number, page: number, pageCount: number): Uint8Array {
    const into = new Uint8Array(new ArrayBuffer(256 * PAGE));
    const place = { block: -1, page: -1 };
    this.source?.request(block, page, pageCount);
    try {
      expect(this.source?.take(into, place)).toBe(pageCount);
    } catch (error) {
      throw Object.assign(error as Error, { place });
    }
    expect(place).toEqual({ block, page });
    expect(this.source?.take(into, place)).toBe(0);
    return into.slice(0, pageCount * PAGE);
  }
}

interface Restoring {
  readonly vm: ToyVm;
  readonly service: PlayedService;
  readonly incoming: IncomingMigration;
  readonly events: IncomingEvent[];
  /** Resolves when the guest runs, or never will. */
  readonly begun: Promise<void>;
}

async function restoring(
  path: string,
  reasons: readonly string[] = [],
  options: Partial<ReceiveOptions> = {},
): Promise<Restoring> {
  const vm = machine({ empty: true });
  const service = new PlayedService(vm);
  service.reasons = reasons;
  const links = await listenOn(file({ path, verify: true }));
  const incoming = receive(links, {
    ...{ prepare: () => vm, run: 'at once', faults: service, progressIntervalMs: 0 },
    ...options,
  });
  const events: IncomingEvent[] = [];
  const begun = new Promise<void>((resolve) => {
    incoming.subscribe((event) => {
      events.push(event);
      if (event.type === 'running' || event.type === 'failed') resolve();
    });
  });
  return { vm, service, incoming, events, begun };
}

function changed(change: (bytes: Buffer) => void): string {
  const path = newPath();
  const bytes = Buffer.from(WHOLE);
  change(bytes);
  writeFileSync(path, bytes);
  return path;
}

/** Where the first block's part of the index is: its bitmap and then its digests. */
const DIGESTS = METADATA.indexOffset + Math.ceil(300 / 64) * 8;

function errorOf(act: () => unknown): GodwitError & { place: unknown } {
  try {
    act();
  } catch (error) {
    if (GodwitError.is(error)) return error as GodwitError & { place: unknown };
    throw error;
  }
  throw new Error('nothing was thrown');
}

test('the devices are loaded with the pages served already, and the guest runs before any has come', async () => {
  const { vm, service, incoming, events, begun } = await restoring(SNAPSHOT);
  await begun;
  expect([vm.running, incoming.state, incoming.ownership]).toEqual([true, 'postcopy-active', 'running']);
  await Promise.resolve();
  expect(service.loadedRest).toBe(true);
  expect(incoming.status().faults).toEqual({ pagesMissing: 1, pagesTotal: 2 });
  expect([service.statesAtBegin, statesOf(vm)]).toEqual([statesOf(machine({ empty: true })), statesOf(SAVED)]);
  // Not from here: not a byte of memory was written by the engine.
  expect(Buffer.from(vm.memory.blocks[0]?.view(0, 300 * PAGE) as Uint8Array).every((byte) => byte === 0)).toBe(true);
  service.resolve();
  const { summary } = await incoming.result;
  expect(summary).toMatchObject({ verified: true, rounds: 1, runState: 'running', faults: { pagesTotal: 2 } });
  const states = events.flatMap((event) => (event.type === 'state' ? [event.state] : []));
  expect(states).toEqual(['setup', 'active', 'device', 'postcopy-active', 'completed']);
});

test('every page that was saved can be had, in any order, and no other is to come', async () => {
  const { service, incoming, begun } = await restoring(SNAPSHOT);
  await begun;
  for (const [block, { byteLength }] of BLOCKS.entries()) {
    const all = Array.from({ length: byteLength / PAGE }, (_, page) => page);
    expect(service.contents(block)).toEqual(all.filter((page) => page % 7 < 3));
    for (const page of service.contents(block).reverse()) {
      expect(Buffer.compare(service.bring(block, page, 1), pageOf(block * 1000 + page))).toBe(0);
    }
    // Runs of three, from the file and its digests alike.
    for (let page = 0; page + 2 < all.length; page += 7) {
      const three = [0, 1, 2].map((i) => pageOf(block * 1000 + page + i));
      expect(Buffer.compare(service.bring(block, page, 3), Buffer.concat(three))).toBe(0);
    }
  }
  service.source?.finish?.();
  service.resolve();
  await incoming.result;
});

test('a snapshot without a checksum of its bitmaps runs at once as well', async () => {
  const path = newPath();
  const { bitmapsSha256, ...older } = METADATA;
  expect(Buffer.from(bitmapsSha256 as Uint8Array).length).toBe(32);
  writeFileSync(path, forge(WHOLE, older));
  const { service, incoming, begun } = await restoring(path);
  await begun;
  expect(Buffer.compare(service.bring(1, 7, 3).subarray(PAGE, 2 * PAGE), pageOf(1008))).toBe(0);
  service.resolve();
  await incoming.result;
});

test('a damaged bitmap is noticed before anything is served', async () => {
  for (const forged of [METADATA, { ...METADATA, bitmapsSha256: undefined }]) {
    const path = newPath();
    const bytes = forge(WHOLE, forged);
    bytes[METADATA.indexOffset] = (bytes[METADATA.indexOffset] as number) ^ 0x08;
    writeFileSync(path, bytes);
    const { service, incoming } = await restoring(path);
    await expect(incoming.result).rejects.toMatchObject({
      code: 'GODWIT_BAD_STREAM',
      message: expect.stringMatching(/(bitmaps of pages do|index of its pages does) not match/),
    });
    expect(service.request).toBeUndefined();
  }
  // A bitmap with the right checksum that has another number of pages than the metadata say.
  const more = Buffer.from(WHOLE);
  more[METADATA.indexOffset] = (more[METADATA.indexOffset] as number) ^ 0x08;
  const second = DIGESTS + Number(METADATA.presentPages[0]) * 8;
  const bitmaps = [more.subarray(METADATA.indexOffset, DIGESTS), more.subarray(second, second + 16)];
  const path = newPath();
  writeFileSync(path, forge(more, { ...METADATA, bitmapsSha256: sha256(Buffer.concat(bitmaps)) }));
  const { incoming } = await restoring(path);
  await expect(incoming.result).rejects.toMatchObject({
    message: expect.stringMatching(/130 pages in its bitmap and 129/),
  });
});

test('a page or a digest that is damaged is never handed over, and named', async () => {
  const at = METADATA.blockOffsets[0] as number;
  const path = changed((bytes) => {
    bytes[at + 8 * PAGE + 4095] = (bytes[at + 8 * PAGE + 4095] as number) ^ 1;
    // The digest of page 14, the seventh that is there.
    bytes[DIGESTS + 6 * 8] = (bytes[DIGESTS + 6 * 8] as number) ^ 1;
    // The other half of that of page 15.
    bytes[DIGESTS + 7 * 8 + 4] = (bytes[DIGESTS + 7 * 8 + 4] as number) ^ 1;
  });
  const { service, incoming, begun } = await restoring(path);
  await begun;
  expect(errorOf(() => service.bring(0, 7, 3))).toMatchObject({
    code: 'GODWIT_BAD_STREAM',
    message: expect.stringContaining('page 8 of RAM block "ram-low" does not match its checksum'),
    place: { block: 0, page: 8 },
  });
  expect(errorOf(() => service.bring(0, 14, 1))).toMatchObject({ place: { block: 0, page: 14 } });
  expect(errorOf(() => service.bring(0, 15, 1))).toMatchObject({ place: { block: 0, page: 15 } });
  // It goes on after that.
  expect(Buffer.compare(service.bring(0, 7, 1), pageOf(7))).toBe(0);
  expect(Buffer.compare(service.bring(0, 9, 1), pageOf(9))).toBe(0);
  expect(errorOf(() => service.source?.finish?.()).message).toContain('the index of its pages does not match');
  service.reject(new GodwitError('GODWIT_PAGES_MISSING', 'page 8'));
  await expect(incoming.result).rejects.toMatchObject({ code: 'GODWIT_PAGES_MISSING' });
});

test('a file that is truncated while the guest runs has fewer pages, and no zeros for them', async () => {
  const path = changed(() => {});
  const { service, incoming, begun } = await restoring(path);
  await begun;
  truncateSync(path, (METADATA.blockOffsets[1] as number) + 8 * PAGE + 100);
  expect(errorOf(() => service.bring(1, 8, 1))).toMatchObject({
    code: 'GODWIT_BAD_STREAM',
    message: expect.stringContaining('it was truncated while the guest ran'),
    place: { block: 1, page: 8 },
  });
  service.reject(new GodwitError('GODWIT_PAGES_MISSING', 'page 8'));
  await expect(incoming.result).rejects.toMatchObject({ code: 'GODWIT_PAGES_MISSING' });
});

test('a restore is not silent while its pages come beside its streams, however long that takes', async () => {
  const { service, incoming, events, begun } = await restoring(SNAPSHOT, [], { keepaliveMs: 5, silenceTimeoutMs: 30 });
  await begun;
  await sleep(300);
  expect(Buffer.compare(service.bring(0, 7, 1), pageOf(7))).toBe(0);
  service.resolve();
  await incoming.result;
  expect(events.filter(({ type }) => type === 'link-lost' || type === 'warning')).toEqual([]);
  expect(incoming.ownership).toBe('settled');
});

test('a guest that runs gets its pages when the link of its restore is lost', async () => {
  // Without pings the link is taken for lost, and the reader of the file is closed with it.
  const { service, incoming, begun } = await restoring(SNAPSHOT, [], {
    ...{ keepaliveMs: 0, silenceTimeoutMs: 200, settleTimeoutMs: 0 },
  });
  await begun;
  await sleep(500);
  for (const page of service.contents(0)) expect(Buffer.compare(service.bring(0, page, 1), pageOf(page))).toBe(0);
  service.source?.finish?.();
  service.source?.close();
  service.resolve();
  await incoming.result;
  expect(incoming.ownership).toBe('untold');
});

test('when pages cannot be had, or are given up, the guest is paused before the service ends', async () => {
  for (const giveUp of [true, false]) {
    const { vm, service, incoming, events, begun } = await restoring(SNAPSHOT);
    expect(incoming.giveUpPages()).toBe(false);
    await begun;
    if (giveUp) expect(incoming.giveUpPages('not wanted')).toBe(true);
    else service.reject(new GodwitError('GODWIT_PAGES_MISSING', 'not wanted'));
    await expect(incoming.result).rejects.toMatchObject({
      code: 'GODWIT_PAGES_MISSING',
      message: expect.stringContaining('not wanted'),
    });
    expect([vm.running, vm.abandoned, incoming.ownership]).toEqual([false, undefined, 'stranded']);
    expect(service.ended).toBeGreaterThan(0);
    expect(events.at(-1)?.type).toBe('failed');
    expect(incoming.giveUpPages()).toBe(false);
  }
});

test('a vCPU that cannot leave the page that it waits for is let go before the pause is given up', async () => {
  const { vm, service, incoming, begun } = await restoring(SNAPSHOT);
  await begun;
  let paused = false;
  Object.assign(vm, {
    pause: async () => {
      await service.whenEnded;
      paused = true;
    },
  });
  const began = performance.now();
  service.reject(new GodwitError('GODWIT_PAGES_MISSING', 'never'));
  await expect(incoming.result).rejects.toMatchObject({ code: 'GODWIT_PAGES_MISSING' });
  // Not after the ten seconds that a pause may take.
  expect([paused, performance.now() - began < 8_000]).toEqual([true, true]);
});

test('a restore that fails before the guest runs ends the service, and then abandons the VM', async () => {
  const path = changed((bytes) => {
    const [piece] = METADATA.pieces;
    const offset = Number(piece?.[1]);
    bytes[offset] = (bytes[offset] as number) ^ 1;
  });
  const { vm, service, incoming } = await restoring(path);
  const endedFirst = new Promise<number>((resolve) => {
    Object.assign(vm, {
      abandon: async () => resolve(service.ended),
    });
  });
  await expect(incoming.result).rejects.toMatchObject({ code: 'GODWIT_BAD_STREAM' });
  expect(await endedFirst).toBe(1);
  expect(vm.running).toBe(false);
});

test('what cannot be served is refused with its reasons, and so is a source that is no snapshot', async () => {
  const { vm, service, incoming } = await restoring(SNAPSHOT, ['its memory is pinned', 'and of another kind']);
  await expect(incoming.result).rejects.toMatchObject({
    code: 'GODWIT_BLOCKED',
    message: expect.stringContaining('its memory is pinned; and of another kind'),
  });
  expect([service.request, vm.running]).toEqual([undefined, false]);
  const options = { prepare: () => vm } as const;
  const links = await listenOn(file({ path: SNAPSHOT }));
  expect(errorOf(() => receive(links, { ...options, run: 'at once' })).message).toContain('faultThreads()');
  expect(errorOf(() => receive(links, { ...options, run: 'soon' as never })).code).toBe('GODWIT_INVALID_ARGUMENT');
  await links.close();
  const transport = memory();
  const listener = await listenOn(transport);
  const copy = machine({ empty: true });
  const arriving = receive(listener, { prepare: () => copy, run: 'at once', faults: new PlayedService(copy) });
  const source = fill(machine());
  await expect(migrate(source, connectTo(transport), { progressIntervalMs: 0 }).result).rejects.toMatchObject({
    code: 'GODWIT_UNSUPPORTED',
  });
  await expect(arriving.result).rejects.toMatchObject({ message: expect.stringContaining('cannot run at once') });
  expect([source.running, copy.running]).toEqual([true, false]);
  await listener.close();
});
