import { DirtyBitmaps, type DirtyTracker, type GuestMemory } from '@godwit/core';
import { expect, test } from '@jest/globals';
import { neverRearmed } from '../qemu/godwit/never-rearmed.js';
import { randomMemory } from '../qemu/memory/random-memory.js';

const MIB = 2 ** 20;
const PAGE = 4096;

test('random memory covers its range once, in pieces within multiples of 64 MiB, and no two pages are alike', () => {
  const pages = new Set<string>();
  let next = MIB;
  for (const { address, bytes } of randomMemory(MIB, 130 * MIB)) {
    expect(address).toBe(next);
    expect(Math.floor(address / (64 * MIB))).toBe(Math.floor((address + bytes.length - 1) / (64 * MIB)));
    for (let page = 0; page < bytes.length; page += PAGE) {
      pages.add(Buffer.from(bytes.buffer, bytes.byteOffset + page, 16).toString('hex'));
    }
    next += bytes.length;
  }
  expect(next).toBe(130 * MIB);
  expect(pages.size).toBe((129 * MIB) / PAGE);
});

test('a log that is never re-armed reports each page once, until it is started anew', async () => {
  const memory: GuestMemory = {
    pageSize: PAGE,
    blocks: [
      { id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE, view: (_, length) => new Uint8Array(length) },
    ],
  };
  let written: number[] = [];
  const tracker: DirtyTracker = {
    name: 'kvm',
    start: async () => {},
    stop: async () => {},
    rearm: () => {},
    async harvest(into) {
      for (const page of written) into.at(0).set(page);
    },
  };
  const broken = neverRearmed(tracker, memory);
  expect(broken.rearm).toBeUndefined();
  const harvest = async (...pages: number[]): Promise<number[]> => {
    written = pages;
    const into = new DirtyBitmaps(memory);
    await broken.harvest(into);
    return [...Array(64).keys()].filter((page) => into.at(0).has(page));
  };
  await broken.start();
  expect(await harvest(1, 5)).toEqual([1, 5]);
  expect(await harvest(1, 5, 9)).toEqual([9]);
  expect(await harvest(1, 9)).toEqual([]);
  await broken.start();
  expect(await harvest(1)).toEqual([1]);
});
