import {
  BOOT_PARAMS_BYTES,
  type BootParams,
  decodeBootParams,
  encodeBootParams,
  ownedPageAddress,
  ownedPages,
  PAGE_SIZE,
  placeWorkingSet,
  RAM_HIGH_ADDRESS,
  workingSetPages,
} from '@godwit/example-node-vmm/guest';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const pageAddress = fc.integer({ min: 0, max: 0x100_0000 }).map((page) => page * PAGE_SIZE);
const bootParams: fc.Arbitrary<BootParams> = fc.integer({ min: 1, max: 8 }).chain((vcpus) =>
  fc.record({
    vcpus: fc.constant(vcpus),
    order: fc.constantFrom('sequential', 'random'),
    wholePages: fc.boolean(),
    console: fc.constantFrom('serial', 'line'),
    pagesPerSecond: u32,
    heartbeatMicroseconds: u32,
    seed: u32,
    ranges: fc.array(fc.record({ guestPhysicalAddress: pageAddress, pages: fc.integer({ min: 1, max: 0x100_0000 }) }), {
      maxLength: 8,
    }),
    tables: fc.array(pageAddress, { minLength: vcpus, maxLength: vcpus }),
  }),
);

const example: BootParams = {
  vcpus: 2,
  order: 'random',
  wholePages: true,
  console: 'line',
  pagesPerSecond: 1000,
  heartbeatMicroseconds: 20_000,
  seed: 7,
  ranges: [{ guestPhysicalAddress: 0x40_0000, pages: 3 }],
  tables: [0x20_0000, 0x20_1000],
};

describe('boot parameters', () => {
  test('decoding gives back what was encoded', () => {
    fc.assert(
      fc.property(bootParams, (params) => {
        expect(decodeBootParams(encodeBootParams(params))).toEqual(params);
      }),
    );
  });

  test('the offsets are those of the documented format', () => {
    const bytes = encodeBootParams(example);
    const view = new DataView(bytes.buffer);
    expect(bytes).toHaveLength(BOOT_PARAMS_BYTES);
    expect(new TextDecoder().decode(bytes.subarray(0, 8))).toBe('GODWITG1');
    expect([8, 12, 16, 20, 24, 28, 32].map((offset) => view.getUint32(offset, true))).toEqual([
      1, 2, 7, 1000, 20_000, 1, 7,
    ]);
    expect(view.getBigUint64(64, true)).toBe(0x40_0000n);
    expect(view.getBigUint64(72, true)).toBe(3n);
    expect(view.getBigUint64(200, true)).toBe(0x20_1000n);
  });

  test.each<[string, Partial<BootParams>]>([
    ['no vCPU', { vcpus: 0, tables: [] }],
    ['a table too few', { tables: [0x20_0000] }],
    ['nine ranges', { ranges: Array.from({ length: 9 }, () => ({ guestPhysicalAddress: 0x40_0000, pages: 1 })) }],
    ['a range that starts within a page', { ranges: [{ guestPhysicalAddress: 1, pages: 1 }] }],
    ['an empty range', { ranges: [{ guestPhysicalAddress: 0x40_0000, pages: 0 }] }],
    ['a negative rate', { pagesPerSecond: -1 }],
  ])('%s is refused', (_, change) => {
    expect(() => encodeBootParams({ ...example, ...change })).toThrow(RangeError);
  });

  test.each([
    ['short', (bytes: Uint8Array) => bytes.subarray(0, 100)],
    ['of other magic', (bytes: Uint8Array) => bytes.fill(0, 0, 8)],
    ['of another version', (bytes: Uint8Array) => bytes.fill(9, 8, 9)],
    ['with nine vCPUs', (bytes: Uint8Array) => bytes.fill(9, 12, 13)],
  ])('a block %s is refused', (_, spoil) => {
    expect(() => decodeBootParams(spoil(encodeBootParams(example)))).toThrow(RangeError);
  });
});

describe('working set', () => {
  test('every page has exactly one owner', () => {
    const shapes = fc.tuple(
      fc.integer({ min: 1, max: 8 }),
      fc.integer({ min: 0, max: 40 }),
      fc.integer({ min: 0, max: 40 }),
    );
    fc.assert(
      fc.property(shapes, ([vcpus, low, high]) => {
        const placement = placeWorkingSet({ low: 0x100_0000, high: 0x100_0000 }, vcpus, low, high);
        const params = { ...example, vcpus, ...placement };
        const owned = new Set<number>();
        for (let vcpu = 0; vcpu < vcpus; vcpu++) {
          for (let index = 0; index < ownedPages(params, vcpu); index++) {
            owned.add(ownedPageAddress(params, vcpu, index));
          }
          expect(() => ownedPageAddress(params, vcpu, ownedPages(params, vcpu))).toThrow(RangeError);
        }
        expect(owned.size).toBe(low + high);
        expect(workingSetPages(params.ranges)).toBe(low + high);
      }),
    );
  });

  test('is split over both sides of the 4 GiB line in proportion to the room there', () => {
    const { ranges, tables } = placeWorkingSet({ low: 0x80_0000, high: 0x80_0000 }, 2, 2000);
    expect(workingSetPages(ranges)).toBe(2000);
    expect(ranges[1]?.guestPhysicalAddress).toBe(RAM_HIGH_ADDRESS);
    expect(Math.max(...tables)).toBeLessThan(ranges[0]?.guestPhysicalAddress ?? 0);
  });

  test('that does not fit is refused with the numbers', () => {
    expect(() => placeWorkingSet({ low: 0x40_0000, high: 0 }, 1, 10_000)).toThrow(/10000 \+ 0 pages does not fit/);
  });
});
