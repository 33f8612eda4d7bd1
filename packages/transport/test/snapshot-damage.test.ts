import { readFileSync, writeFileSync } from 'node:fs';
import { GodwitError } from '@godwit/core';
import { FaultyDevice, type ToyVm } from '@godwit/core/testing';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import fc from 'fast-check';
import { type Forged, forge, readHeader, readMetadata, readSnapshot, sha256 } from './snapshot-forge.js';
import { BLOCKS, fill, machine, PAGE, restore, save, snapshotFolder, statesOf } from './snapshot-machine.js';

jest.setTimeout(120_000);

const { newPath, close } = await snapshotFolder();
afterAll(close);

let vm: ToyVm;
let whole: Buffer;
let metadata: Forged;

beforeAll(async () => {
  vm = fill(machine());
  const path = newPath();
  await save(vm, path, { pageChannels: 1 });
  whole = readFileSync(path);
  metadata = readMetadata(whole);
});

interface Outcome {
  readonly error: GodwitError | undefined;
  readonly copy: ToyVm;
  /** Whether the engine asked for a VM. */
  readonly prepared: boolean;
}

const path = newPath();

async function restored(bytes: Uint8Array, copy = machine({ empty: true })): Promise<Outcome> {
  writeFileSync(path, bytes);
  let prepared = false;
  try {
    await restore(copy, path, {
      onDescription: () => {
        prepared = true;
      },
    });
    return { error: undefined, copy, prepared };
  } catch (error) {
    if (!GodwitError.is(error)) throw error;
    return { error, copy, prepared };
  }
}

/** Refused, the VM that may have been prepared is given up, and the reason says which file it is. */
function expectRefused({ error, copy, prepared }: Outcome, code: string, message: RegExp): void {
  expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
  expect(error?.message).toContain(path);
  expect([copy.running, copy.resumes, copy.abandoned !== undefined]).toEqual([false, 0, prepared]);
}

function flipped(at: number, bit = 0): Buffer {
  const bytes = Buffer.from(whole);
  bytes[at] = (bytes[at] as number) ^ (1 << bit);
  return bytes;
}

function changed(change: (forged: Forged) => void): Buffer {
  const copy = structuredClone(metadata);
  change(copy);
  return forge(whole, copy);
}

test('the format is as described: a reader that was written from the page finds the guest', async () => {
  const { ram, devices } = readSnapshot(whole);
  for (const [i, block] of vm.memory.blocks.entries()) {
    expect(Buffer.compare(ram[i] as Buffer, block.bytes)).toBe(0);
  }
  expect([...devices.values()].map(String)).toEqual(statesOf(vm));
  expect([...devices.keys()]).toEqual(['vcpu', 'serial']);
  expect(metadata.blockOffsets).toEqual([2 ** 20, 3 * 2 ** 20]);
  // And a file that was made by its words is restored.
  const { error, copy } = await restored(forge(whole, metadata));
  expect(error).toBeUndefined();
  expect(vm.memory.equals(copy.memory)).toBe(true);
});

describe('a torn file is refused', () => {
  test('wherever it was cut', async () => {
    const { metadataOffset } = readHeader(whole);
    const lengths = [0, 1, 15, 16, 79, 111, 112, 4095, 4096, 2 ** 20, 2 ** 20 + 5 * PAGE + 9, 3 * 2 ** 20 + 1];
    const [, [, offset]] = metadata.pieces as [unknown, Forged['pieces'][number]];
    lengths.push(
      offset,
      offset + 1,
      metadata.indexOffset,
      metadata.indexOffset + 1,
      metadataOffset,
      metadataOffset + 1,
    );
    lengths.push(whole.length - 1);
    for (const length of lengths) {
      const outcome = await restored(whole.subarray(0, length));
      expectRefused(outcome, 'GODWIT_BAD_STREAM', /truncated|is no Godwit snapshot/);
      expect(outcome.prepared).toBe(false);
    }
  });

  test('when something was appended', async () => {
    expectRefused(await restored(Buffer.concat([whole, Buffer.of(0)])), 'GODWIT_BAD_STREAM', /something was appended/);
  });

  test('when the end is there, but not what comes before it: zeros in the place of pages', async () => {
    const bytes = Buffer.from(whole);
    bytes.fill(0, 2 ** 20 + 8 * PAGE, 2 ** 20 + 9 * PAGE);
    const outcome = await restored(bytes);
    expectRefused(outcome, 'GODWIT_BAD_STREAM', /page 8 of RAM block "ram-low" does not match its checksum/);
  });

  test('when the header was never written', async () => {
    const outcome = await restored(Buffer.from(whole).fill(0, 0, 4096));
    expectRefused(outcome, 'GODWIT_BAD_STREAM', /saving was interrupted/);
  });
});

describe('a foreign file is refused before a VM is built', () => {
  const cases: Record<string, Buffer> = {
    text: Buffer.from('#!/bin/sh\necho no snapshot\n'.repeat(200)),
    'a stream of QEMU': Buffer.concat([Buffer.from('QEVM\0\0\0\x03'), Buffer.alloc(8000, 7)]),
    'a frame of Godwit': Buffer.concat([Buffer.from('ce0000000291 0c'.replace(' ', ''), 'hex'), Buffer.alloc(5000, 9)]),
  };
  for (const [name, bytes] of Object.entries(cases)) {
    test(name, async () => {
      const outcome = await restored(bytes);
      expectRefused(outcome, 'GODWIT_BAD_STREAM', /is no Godwit snapshot: it does not start with "godwit snapshot"/);
      expect(outcome.prepared).toBe(false);
    });
  }

  test('a newer format', async () => {
    const outcome = await restored(forge(whole, metadata, { version: 2 }));
    expectRefused(outcome, 'GODWIT_VERSION_MISMATCH', /is a snapshot of format 2; .* reads format 1 only/);
    expect(outcome.prepared).toBe(false);
  });

  test('none at all', async () => {
    await expect(restore(machine({ empty: true }), newPath())).rejects.toMatchObject({
      code: 'GODWIT_CONNECT_FAILED',
      retry: false,
      message: expect.stringContaining('no such file'),
    });
  });
});

describe('a damaged file is refused', () => {
  test('every byte of the header that counts', async () => {
    for (let at = 0; at < 112; at++) {
      const outcome = await restored(flipped(at, at % 8));
      expectRefused(outcome, at >= 16 && at < 20 ? 'GODWIT_VERSION_MISMATCH' : 'GODWIT_BAD_STREAM', /./);
      expect(outcome.prepared).toBe(false);
    }
  });

  test('in the metadata, before a VM is built', async () => {
    for (const at of [readHeader(whole).metadataOffset, whole.length - 40, whole.length - 1]) {
      const outcome = await restored(flipped(at));
      expectRefused(outcome, 'GODWIT_BAD_STREAM', /metadata does not match its checksum/);
      expect(outcome.prepared).toBe(false);
    }
  });

  test('in the index, before a page is read', async () => {
    for (const at of [metadata.indexOffset, metadata.indexOffset + 100]) {
      const outcome = await restored(flipped(at));
      expectRefused(outcome, 'GODWIT_BAD_STREAM', /index of its pages does not match its checksum/);
      expect(outcome.copy.memory.equals(machine({ empty: true }).memory)).toBe(true);
    }
  });

  test('in a device, which sees nothing of it', async () => {
    const [[, offset]] = metadata.pieces as [Forged['pieces'][number]];
    const outcome = await restored(flipped(offset + 5));
    expectRefused(outcome, 'GODWIT_BAD_STREAM', /state of device "vcpu" at byte \d+ does not match/);
    expect(outcome.copy.devices.map((device) => (device as FaultyDevice).loads)).toEqual([0, 0]);
  });

  test('in a page of the second block', async () => {
    const at = (metadata.blockOffsets[1] as number) + 65 * PAGE + 4000;
    expectRefused(await restored(flipped(at)), 'GODWIT_BAD_STREAM', /page 65 of RAM block "ram-high" does not match/);
  });

  test('not where nothing counts: gaps, and places of absent pages', async () => {
    for (const at of [
      112,
      4095,
      4096,
      2 ** 20 - 1,
      2 ** 20 + 3 * PAGE,
      (metadata.blockOffsets[1] as number) + 6 * PAGE,
    ]) {
      const { error, copy } = await restored(flipped(at));
      expect(error).toBeUndefined();
      expect(vm.memory.equals(copy.memory)).toBe(true);
    }
  });

  test('any few bits anywhere: refused, or the very same guest', async () => {
    const places = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(7)), { minLength: 1, maxLength: 4 });
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(places, async (flips) => {
        const bytes = Buffer.from(whole);
        for (const [at, bit] of flips) bytes[at] = (bytes[at] as number) ^ (1 << bit);
        const { error, copy } = await restored(bytes);
        if (error === undefined) {
          expect(vm.memory.firstDifference(copy.memory)).toBeUndefined();
          expect(statesOf(copy)).toEqual(statesOf(vm));
          return;
        }
        refused++;
        expect(['GODWIT_BAD_STREAM', 'GODWIT_VERSION_MISMATCH']).toContain(error.code);
        expect([copy.running, copy.resumes]).toEqual([false, 0]);
      }),
      { numRuns: 150 },
    );
    expect(refused).toBeGreaterThan(10);
  });
});

describe('a hostile file with the right checksums is refused before anything of its size is allocated', () => {
  const block = (forged: Forged, index = 0) =>
    (forged.hello[6] as [string, number, number | bigint][])[index] as unknown[];
  const cases: readonly [string, (forged: Forged) => void, RegExp][] = [
    ['a block of a petabyte', (f) => block(f).splice(2, 1, 2n ** 50n), /RAM block "ram-low" at/],
    ['a block of half a page', (f) => block(f).splice(2, 1, PAGE / 2), /pages in RAM block "ram-low"/],
    ['more pages than there are', (f) => f.presentPages.splice(0, 1, 301), /301 pages in RAM block "ram-low"/],
    ['a count that is missing', (f) => f.presentPages.pop(), /2 blocks, but 2 places and 1 counts/],
    ['a block in the header', (f) => f.blockOffsets.splice(0, 1, 0), /RAM block "ram-low" at 0/],
    ['a block beyond the file', (f) => f.blockOffsets.splice(1, 1, 2 ** 52), /RAM block "ram-high" at/],
    ['blocks that overlap', (f) => f.blockOffsets.splice(1, 1, 2 ** 20 + PAGE), /RAM block "ram-high" at/],
    ['pages out of step', (f) => f.blockOffsets.splice(0, 1, 2 ** 20 - 512), /start at 1048064/],
    ['pages of 3 bytes', (f) => f.hello.splice(5, 1, 3), /pages of 3 bytes/],
    ['an index beyond the file', (f) => Object.assign(f, { indexOffset: 2 ** 40 }), /the index at/],
    ['an index too early', (f) => Object.assign(f, { indexOffset: 4096 }), /the index at 4096/],
    ['an index too late', (f) => Object.assign(f, { indexOffset: f.indexOffset - 8 }), /the index/],
    ['a piece of 2 GiB', (f) => f.pieces[0]?.splice(2, 1, 2 ** 31), /byteLength/],
    ['pieces that overlap', (f) => f.pieces[1]?.splice(1, 1, f.pieces[0]?.[1] ?? 0), /device piece 1 at/],
    ['a piece of no device', (f) => f.pieces[0]?.splice(0, 1, 2), /device must be/],
    ['a checksum that is too short', (f) => f.pieces[0]?.splice(3, 1, new Uint8Array(3)), /no 32 bytes/],
    ['no hello', (f) => Object.assign(f, { hello: [12, 1] }), /a hello should be first, found "go"/],
    [
      'a run state that there is not',
      (f) => Object.assign(f, { runState: 'ended' }),
      /runState must be one of running, paused/,
    ],
    ['what is no header', (f) => Object.assign(f, { hello: [1, 2] }), /hello/],
  ];
  test.each(cases)('%s', async (_, change, message) => {
    const outcome = await restored(changed(change));
    expect(outcome.error?.code).toMatch(/GODWIT_(BAD_STREAM|LIMIT_EXCEEDED)/);
    expectRefused(outcome, outcome.error?.code ?? '', message);
    expect(outcome.prepared).toBe(false);
  });

  test('metadata of a terabyte', async () => {
    const header = { metadataBytes: 2 ** 40, fileBytes: whole.length };
    const outcome = await restored(forge(whole, metadata, header));
    // Not the sum of both: the length is the first lie.
    expectRefused(outcome, 'GODWIT_LIMIT_EXCEEDED', /announces 1099511627776 bytes of metadata/);
  });

  test('metadata in front of the header', async () => {
    const { metadataBytes } = readHeader(whole);
    const outcome = await restored(forge(whole, metadata, { metadataOffset: 16, metadataBytes }));
    expectRefused(outcome, 'GODWIT_BAD_STREAM', /makes no sense/);
  });

  test('a bitmap that does not fit the counts; bits past the last page mean nothing', async () => {
    const spoiled = (at: number, bits: number): Buffer => {
      const copy = Buffer.from(whole);
      const index = copy.subarray(metadata.indexOffset, readHeader(whole).metadataOffset);
      index[at] = bits;
      return forge(copy, { ...structuredClone(metadata), indexSha256: sha256(index) });
    };
    const outcome = await restored(spoiled(0, 0xff));
    expectRefused(outcome, 'GODWIT_BAD_STREAM', /RAM block 0 has \d+ pages in its bitmap/);
    // 300 pages: 37 bytes and a half of 40.
    const { error, copy } = await restored(spoiled(39, 0xf0));
    expect(error).toBeUndefined();
    expect(vm.memory.equals(copy.memory)).toBe(true);
  });

  test('another guest: other blocks, other devices, another page size', async () => {
    const other = machine({ empty: true, blocks: [{ ...(BLOCKS[0] as (typeof BLOCKS)[number]), id: 'other' }] });
    expect((await restored(whole, other)).error?.code).toBe('GODWIT_MEMORY_MISMATCH');
    const renamed = await restored(changed((f) => block(f, 1).splice(0, 1, 'ram-top')));
    expect(renamed.error?.code).toBe('GODWIT_MEMORY_MISMATCH');
    const lacking = machine({ empty: true });
    lacking.devices = [new FaultyDevice('vcpu')];
    expect((await restored(whole, lacking)).error?.code).toBe('GODWIT_DEVICE_MISMATCH');
    expect((await restored(changed((f) => f.hello.splice(5, 1, 2048)))).error?.code).toMatch(/PAGE_SIZE|BAD_STREAM/);
  });
});
