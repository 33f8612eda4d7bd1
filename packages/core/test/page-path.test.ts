import { type GuestMemory, type PageRun, PageRunList, RAM_WINDOW_BYTES } from '@godwit/core';
import { pageFrames } from '@godwit/core/pages';
import { BufferMemory, engineParts, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const { checkRuns, cutHoles, digestPages, MemoryWindows, splitZeroPages, zeroRun } = engineParts;

const PAGE = 256;
const pagesOfRuns = (runs: Iterable<PageRun>) =>
  [...runs].flatMap(({ firstPage, pageCount }) => Array.from({ length: pageCount }, (_, i) => firstPage + i));

/** The same bytes through views that cannot be seen as 32-bit words. */
function unaligned(memory: BufferMemory): GuestMemory {
  return {
    pageSize: memory.pageSize,
    blocks: memory.blocks.map((block) => {
      const bytes = new Uint8Array(block.byteLength + 1).subarray(1);
      bytes.set(block.bytes);
      return {
        id: block.id,
        guestPhysicalAddress: 0,
        byteLength: block.byteLength,
        view: (at: number, length: number) => bytes.subarray(at, at + length),
      };
    }),
  };
}

function memoryOf(pages: number): BufferMemory {
  return new BufferMemory([{ id: 'ram', guestPhysicalAddress: 0, byteLength: pages * PAGE }], PAGE);
}

describe('splitZeroPages', () => {
  const bytes = fc.array(fc.record({ page: fc.nat(39), at: fc.nat(PAGE - 1), value: fc.nat(255) }), { maxLength: 30 });

  test.each([false, true])('finds every byte that is not zero, in any place of a page (unaligned: %s)', (oddly) => {
    fc.assert(
      fc.property(bytes, fc.nat(39), fc.nat(40), (given, first, length) => {
        const memory = memoryOf(40);
        for (const { page, at, value } of given) memory.write(0, page * PAGE + at, Uint8Array.of(value));
        const windows = new MemoryWindows(oddly ? unaligned(memory) : memory);
        const nonZero = new PageRunList(1);
        const zero = new PageRunList(1);
        const count = Math.min(length, 40 - first);
        splitZeroPages(windows, 0, first, count, nonZero, zero);
        const filled = new Set(given.filter(({ value }) => value !== 0).map(({ page }) => page));
        const pages = Array.from({ length: count }, (_, i) => first + i);
        expect(pagesOfRuns(nonZero)).toEqual(pages.filter((page) => filled.has(page)));
        expect(pagesOfRuns(zero)).toEqual(pages.filter((page) => !filled.has(page)));
      }),
    );
  });

  test('does not take what lies past a window for zero', () => {
    const windows = new MemoryWindows(memoryOf(40));
    const lists = [new PageRunList(), new PageRunList()] as const;
    expect(() => splitZeroPages(windows, 0, 39, 2, ...lists)).toThrow(
      expect.objectContaining({ code: 'GODWIT_OUT_OF_RANGE' }),
    );
    expect(() => windows.bytes(0, 39, 2)).toThrow(expect.objectContaining({ code: 'GODWIT_OUT_OF_RANGE' }));
  });
});

describe('pageFrames', () => {
  const lists = fc
    .array(fc.tuple(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 700 })), { maxLength: 40 })
    .map((gaps) => {
      let page = 0;
      return gaps.map(([gap, pageCount]) => {
        const firstPage = page + gap;
        page = firstPage + pageCount;
        return { firstPage, pageCount };
      });
    });
  const framesOf = (runs: Iterable<PageRun>, holes: Iterable<PageRun>, framePages: number) => {
    const batch = {
      round: 3,
      blockIndex: 1,
      limit: 7,
      runs: PageRunList.from(runs),
      holes: PageRunList.from(holes),
    };
    return Array.from(pageFrames(batch, framePages), (frame) => {
      expect(frame).toMatchObject({ round: 3, blockIndex: 1, limit: 7 });
      expect(frame.runs.length).toBeLessThanOrEqual(1023);
      expect(frame.runs.pageCount).toBeLessThanOrEqual(framePages);
      expect(frame.runs.pageCount + frame.holes.pageCount).toBeGreaterThan(0);
      return { runs: [...frame.runs], holes: [...frame.holes] };
    });
  };

  test('every page once and in order, in as few frames as there can be, and holes in one', () => {
    fc.assert(
      fc.property(lists, lists, fc.integer({ min: 1, max: 1500 }), (runs, holes, framePages) => {
        const frames = framesOf(runs, holes, framePages);
        expect(frames.flatMap((frame) => pagesOfRuns(frame.runs))).toEqual(pagesOfRuns(runs));
        expect(frames.flatMap((frame) => frame.holes)).toEqual(holes);
        const full = frames.filter((frame) => frame.runs.length > 0);
        expect(full.length).toBe(Math.ceil(pagesOfRuns(runs).length / framePages));
      }),
    );
  });

  test('no more runs than one gathering write takes', () => {
    const lone = Array.from({ length: 2500 }, (_, i) => ({ firstPage: i * 2, pageCount: 1 }));
    expect(framesOf(lone, [], 4096).map(({ runs }) => runs.length)).toEqual([1023, 1023, 454]);
  });
});

test('views are cut at windows, and cover a run byte by byte', () => {
  const asked: [number, number][] = [];
  const pageSize = RAM_WINDOW_BYTES / 64;
  const memory: GuestMemory = {
    pageSize,
    blocks: [
      {
        id: 'ram',
        guestPhysicalAddress: 0,
        byteLength: pageSize * 130,
        view: (offset, length) => {
          asked.push([offset, length]);
          return Object.defineProperties(new Uint8Array(), { byteLength: { value: length }, byteOffset: { value: 1 } });
        },
      },
    ],
  };
  const windows = new MemoryWindows(memory);
  const into: Uint8Array[] = [];
  windows.appendViews(into, 0, 60, 70);
  windows.appendViews(into, 0, 0, 1);
  expect(into).toHaveLength(4);
  // Each window is asked for once, never crosses a multiple of 1 GiB, and the last one ends with the block.
  expect(asked).toEqual([
    [0, RAM_WINDOW_BYTES],
    [RAM_WINDOW_BYTES, RAM_WINDOW_BYTES],
    [2 * RAM_WINDOW_BYTES, 2 * pageSize],
  ]);
});

describe('the digest of a page', () => {
  const page = fc.uint8Array({ minLength: PAGE, maxLength: PAGE });
  const digest = (bytes: Uint8Array, oddly = false): string => {
    const memory = memoryOf(2);
    memory.write(0, PAGE, bytes);
    const into = new Uint32Array(4);
    const there = new MemoryWindows(oddly ? unaligned(memory) : memory).bytes(0, 1, 1);
    digestPages(there, 0, PAGE, PAGE, into, 2);
    expect([into[0], into[1]]).toEqual([0, 0]);
    return `${into[2]?.toString(16)}:${into[3]?.toString(16)}`;
  };

  test('is what the wire format says, in plain arithmetic', () => {
    const starts = [0x9e3779b1n, 0x85ebca77n, 0xc2b2ae3dn, 0x27d4eb2fn];
    const u32 = (x: bigint) => x & 0xffffffffn;
    const finish = (hash: bigint) => {
      let h = u32((hash ^ (hash >> 15n)) * 0x85ebca77n);
      h = u32((h ^ (h >> 13n)) * 0xc2b2ae3dn);
      return h ^ (h >> 16n);
    };
    const mix = (lanes: readonly bigint[]) => lanes.reduce((sum, lane, i) => finish(i === 0 ? lane : sum ^ lane), 0n);
    fc.assert(
      fc.property(page, (bytes) => {
        const lanes = [...starts];
        const sums = [0n, 0n, 0n, 0n];
        const view = new DataView(bytes.slice().buffer);
        for (let at = 0; at < PAGE; at += 4) {
          const lane = (at / 4) % 4;
          const h = lanes[lane] as bigint;
          const turned = u32(h << 13n) | (h >> 19n);
          lanes[lane] = u32((turned ^ BigInt(view.getUint32(at, true))) * (starts[lane] as bigint));
          sums[lane] = u32((sums[lane] as bigint) + (lanes[lane] as bigint));
        }
        expect(digest(bytes)).toBe(`${mix(lanes).toString(16)}:${mix(sums.reverse()).toString(16)}`);
      }),
    );
  });

  test('is a function of the bytes and of nothing else', () => {
    fc.assert(fc.property(page, (bytes) => expect(digest(bytes)).toBe(digest(bytes.slice(), true))));
  });

  test('shows any change of one byte, in both halves', () => {
    fc.assert(
      fc.property(page, fc.nat(PAGE - 1), fc.integer({ min: 1, max: 255 }), (bytes, at, change) => {
        const other = bytes.slice();
        other[at] = (other[at] as number) ^ change;
        const [a, b] = digest(bytes).split(':');
        const [c, d] = digest(other).split(':');
        expect(a).not.toBe(c);
        expect(b).not.toBe(d);
      }),
    );
  });

  test('shows words in another order, repeated halves and shifted pages', () => {
    fc.assert(
      fc.property(page, fc.nat(63), fc.nat(63), (bytes, i, j) => {
        const other = bytes.slice();
        other.set(bytes.subarray(j * 4, j * 4 + 4), i * 4);
        other.set(bytes.subarray(i * 4, i * 4 + 4), j * 4);
        expect(digest(other) === digest(bytes)).toBe(Buffer.compare(other, bytes) === 0);
        const shifted = new Uint8Array(PAGE);
        shifted.set(bytes.subarray(16), 0);
        shifted.set(bytes.subarray(0, 16), PAGE - 16);
        expect(digest(shifted) === digest(bytes)).toBe(Buffer.compare(shifted, bytes) === 0);
      }),
    );
  });

  test('is no longer than 64 bits, and does not collide on pages that differ little', () => {
    const seen = new Set<string>();
    for (let value = 0; value < 2000; value++) {
      const bytes = new Uint8Array(PAGE);
      new DataView(bytes.buffer).setUint32((value % 61) * 4, value);
      new DataView(bytes.buffer).setUint32(60 * 4, value);
      seen.add(digest(bytes));
    }
    expect(seen.size).toBe(2000);
  });
});

describe('checkRuns', () => {
  const memory = memoryOf(64);

  test('accepts what ascends inside the block, and counts it', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(4), fc.integer({ min: 1, max: 5 })), { minLength: 1, maxLength: 7 }),
        (given) => {
          const runs: number[] = [];
          let next = 0;
          let pages = 0;
          for (const [gap, count] of given) {
            runs.push(next + gap, count);
            next += gap + count;
            pages += count;
          }
          expect(checkRuns(memory, 0, runs, 'pages')).toBe(pages);
        },
      ),
    );
  });

  test('accepts nothing else', () => {
    const number = fc.oneof(
      fc.integer({ min: -2, max: 70 }),
      fc.double(),
      fc.constantFrom(2 ** 53, 2 ** 53 - 1, -0, Number.NaN),
    );
    fc.assert(
      fc.property(fc.array(number, { maxLength: 6 }), (runs) => {
        const pages = new Set<number>();
        let sum = 0;
        let right = runs.length > 0 && runs.length % 2 === 0;
        for (let i = 0; right && i < runs.length; i += 2) {
          const first = runs[i] as number;
          const count = runs[i + 1] as number;
          right = Number.isInteger(first) && Number.isInteger(count) && first >= 0 && count > 0 && first + count <= 64;
          right &&= pages.size === 0 || first > Math.max(...pages);
          if (!right) break;
          for (let page = first; page < first + count; page++) pages.add(page);
          sum += count;
        }
        if (right) expect(checkRuns(memory, 0, runs, 'pages')).toBe(sum);
        else
          expect(() => checkRuns(memory, 0, runs, 'pages')).toThrow(
            expect.objectContaining({ code: expect.stringMatching(/PROTOCOL|OUT_OF_RANGE/) }),
          );
      }),
      { numRuns: 500 },
    );
  });
});

describe('cutHoles', () => {
  const extents = fc.array(fc.tuple(fc.nat(6), fc.nat(6)), { maxLength: 15 }).map((given) => {
    let next = 0;
    return given.map(([gap, pageCount]) => {
      const run = { firstPage: next + gap, pageCount };
      next += gap + pageCount;
      return run;
    });
  });

  test('each dirty page is present or a hole, as the extents say', () => {
    fc.assert(
      fc.property(extents, extents, (dirty, populated) => {
        const runs = PageRunList.from(dirty);
        const present = new PageRunList(1);
        const holes = new PageRunList(1);
        cutHoles(runs, populated, present, holes);
        const there = new Set(pagesOfRuns(populated));
        expect(pagesOfRuns(present)).toEqual(pagesOfRuns(runs).filter((page) => there.has(page)));
        expect(pagesOfRuns(holes)).toEqual(pagesOfRuns(runs).filter((page) => !there.has(page)));
      }),
    );
  });
});

describe('zeroRun', () => {
  test.each([true, false])('leaves nothing, in steps that let others run (with discard: %s)', async (discard) => {
    const clock = new VirtualClock();
    const plain = new BufferMemory([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 40 * 2 ** 20 }], 4096);
    const [only] = plain.blocks;
    if (only === undefined) throw new Error('unreachable');
    const block = discard ? only : { id: 'ram', guestPhysicalAddress: 0, byteLength: only.byteLength, view: only.view };
    only.bytes.fill(7);
    const windows = new MemoryWindows({ pageSize: 4096, blocks: [block] });
    await zeroRun(windows, block, 0, { firstPage: 100, pageCount: 5000 }, clock);
    for (const [at, value] of [
      [100, 0],
      [5099, 0],
      [99, 7],
      [5100, 7],
    ] as const) {
      expect([at, only.bytes[at * 4096], only.bytes[at * 4096 + 4095]]).toEqual([at, value, value]);
    }
    const over = zeroRun(windows, block, 0, { firstPage: 0, pageCount: 100 }, clock, () => true);
    await expect(over).rejects.toMatchObject({ code: 'GODWIT_LINK_LOST' });
    expect([only.bytes[0], only.bytes[100 * 4096 - 1]]).toEqual([7, 7]);
  });

  test('writes zeros to what is pinned, and leaves its holes alone', async () => {
    const clock = new VirtualClock();
    const memory = new BufferMemory([{ id: 'ram', guestPhysicalAddress: 0, byteLength: 400 * 4096 }], 4096);
    const [block] = memory.blocks;
    if (block === undefined) throw new Error('unreachable');
    block.bytes.fill(7, 0, 100 * 4096);
    const windows = new MemoryWindows(memory);
    const populated = () => [...(block.populated?.() ?? [])].map(({ firstPage, pageCount }) => [firstPage, pageCount]);
    expect(populated()).toEqual([[0, 100]]);
    const unpin = block.pin?.({ firstPage: 50, pageCount: 1 });
    await zeroRun(windows, block, 0, { firstPage: 0, pageCount: 400 }, clock);
    expect(Buffer.compare(block.bytes, new Uint8Array(block.byteLength))).toBe(0);
    expect(populated()).toEqual([[0, 100]]);
    unpin?.();
    await zeroRun(windows, block, 0, { firstPage: 0, pageCount: 400 }, clock);
    expect(populated()).toEqual([]);
  });
});
