import { readdirSync, readlinkSync } from 'node:fs';
import { DirtyBitmaps } from '@godwit/core';
import { createGuestMemory, type MappedGuestMemory, Userfaultfd } from '@godwit/linux';
import { Uffd } from '@godwit/linux/unstable';
import { type FaultThreads, faultThreads } from '@godwit/workers';
import { expect } from '@jest/globals';
import { ThreadWatch } from './threads.js';
import { endings, testFaults } from './userfault-tests.js';

const PAGE = 4096;
const PAGES = 64;

const ending = endings();

function guest(): MappedGuestMemory {
  const memory = createGuestMemory({
    blocks: [{ id: 'ram', guestPhysicalAddress: 0, byteLength: PAGES * PAGE }],
  });
  ending.push(() => memory.close());
  bytesOf(memory).fill(0x77);
  return memory;
}

const bytesOf = ({ blocks }: MappedGuestMemory): Uint8Array => blocks[0]?.view(0, PAGES * PAGE) as Uint8Array;

function threads(): { readonly service: FaultThreads; readonly watch: ThreadWatch } {
  const watch = new ThreadWatch();
  ending.push(() => watch.stop());
  const service = faultThreads();
  ending.push(() => service.close());
  return { service, watch };
}

/** The even pages come over a link; the odd ones stay as they are. */
function evenPages(memory: MappedGuestMemory) {
  const contents = new DirtyBitmaps(memory);
  for (let page = 0; page < PAGES; page += 2) contents.at(0).set(page);
  return { memory, contents, others: 'stay', source: undefined } as const;
}

const userfaultfds = (): number =>
  readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).includes('[userfaultfd]');
    } catch {
      return false;
    }
  }).length;

testFaults('a prepared service changes nothing in the memory, and serves it with the same threads', async () => {
  const { service, watch } = threads();
  const memory = guest();
  service.prepare(memory);
  service.prepare(memory);
  await service.ready();
  expect([memory.missing, watch.started.length]).toEqual([undefined, 2]);
  // This thread could not touch a page that is missing.
  const bytes = bytesOf(memory);
  expect([bytes[0], bytes[PAGE]]).toEqual([0x77, 0x77]);
  bytes[PAGE] = 0x78;
  const missing = await service.serve(evenPages(memory));
  expect(watch.started.length).toBe(2);
  expect(missing.status()).toMatchObject({ pagesMissing: PAGES / 2, pagesTotal: PAGES / 2 });
  expect(bytes[PAGE]).toBe(0x78);
  const sink = missing.sink();
  for (let page = 0; page < PAGES; page += 2) {
    sink.bytes.fill(page, 0, PAGE);
    sink.put(0, page, 1, 0);
  }
  missing.arrived();
  await missing.whole;
  expect([bytes[2 * PAGE], bytes[PAGE], bytes[62 * PAGE]]).toEqual([2, 0x78, 62]);
});

testFaults('a prepared service that is not used, or is for other memory, leaves nothing behind', async () => {
  const before = userfaultfds();
  const { service, watch } = threads();
  const [first, second] = [guest(), guest()];
  service.prepare(first);
  service.prepare(second);
  const missing = await service.serve(evenPages(first));
  expect([first.missing, second.missing]).toEqual([missing, undefined]);
  await missing.undo();
  expect(first.missing).toBeUndefined();
  service.prepare(second);
  await service.close();
  expect([watch.alive.size, userfaultfds()]).toEqual([0, before]);
  expect(bytesOf(second)[0]).toBe(0x77);
});

testFaults('memory that gets another userfaultfd after the preparation is refused as it is without one', async () => {
  const { service, watch } = threads();
  const memory = guest();
  service.prepare(memory);
  const { hostAddress = 0n, byteLength = 0 } = memory.blocks[0] ?? {};
  const other = Userfaultfd.open(Uffd.UFFD_FEATURE_MISSING_SHMEM);
  ending.push(() => other.close());
  other.register(hostAddress, byteLength, Uffd.UFFDIO_REGISTER_MODE_MISSING);
  await expect(service.serve(evenPages(memory))).rejects.toThrow('another userfaultfd has this range');
  expect(memory.missing).toBeUndefined();
  await service.close();
  expect(watch.alive.size).toBe(0);
});

testFaults('a prepared service whose thread has died is replaced', async () => {
  const { service, watch } = threads();
  const memory = guest();
  service.prepare(memory);
  await watch.kill(0);
  const missing = await service.serve(evenPages(memory));
  expect([missing.status().pagesMissing, watch.started.length]).toEqual([PAGES / 2, 4]);
  await missing.undo();
});
