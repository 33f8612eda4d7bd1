import { GodwitError } from '@godwit/core';
import { readType1Info } from '@godwit/vfio';
import { VfioModel } from '@godwit/vfio/testing';
import { capabilityChain, parseType1Info } from '@godwit/vfio/unstable';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { errorOf } from './error-of.js';

interface Entry {
  readonly at: number;
  readonly id: number;
  readonly next: number;
}

function infoBuffer(byteLength: number, entries: readonly Entry[]): Uint8Array {
  const bytes = new Uint8Array(byteLength);
  const view = new DataView(bytes.buffer);
  for (const { at, id, next } of entries) {
    view.setUint16(at, id, true);
    view.setUint16(at + 2, 1, true);
    view.setUint32(at + 4, next, true);
  }
  return bytes;
}

describe('a capability chain', () => {
  test('is walked by its links, forwards and backwards', () => {
    const info = infoBuffer(128, [
      { at: 64, id: 2, next: 24 },
      { at: 24, id: 3, next: 96 },
      { at: 96, id: 1, next: 0 },
    ]);
    const chain = capabilityChain(info, 64, 24);
    expect(chain.map(({ id, offset }) => [id, offset])).toEqual([
      [2, 64],
      [3, 24],
      [1, 96],
    ]);
    expect(chain.map(({ bytes }) => bytes.byteLength)).toEqual([64, 104, 32]);
  });

  test('of offset 0 is empty', () => {
    expect(capabilityChain(new Uint8Array(24), 0, 24)).toEqual([]);
  });

  test.each([
    ['points at itself', [{ at: 24, id: 2, next: 24 }], 24],
    [
      'goes round',
      [
        { at: 24, id: 2, next: 40 },
        { at: 40, id: 3, next: 24 },
      ],
      24,
    ],
    ['leaves the buffer', [{ at: 24, id: 2, next: 4096 }], 24],
    ['ends in the middle of a header', [{ at: 24, id: 2, next: 60 }], 24],
    ['runs into the fixed part', [{ at: 24, id: 2, next: 8 }], 24],
    ['begins outside', [], 64],
    ['begins in the fixed part', [], 16],
  ] as const)('that %s is an error', async (_, entries, first) => {
    const info = infoBuffer(64, entries);
    expect((await errorOf(() => capabilityChain(info, first, 24))).code).toBe('GODWIT_SYSCALL');
  });
});

test('whatever the bytes, reading them ends, with information or a GodwitError', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 24, maxLength: 300 }), fc.nat(40), (bytes, first) => {
      new DataView(bytes.buffer, bytes.byteOffset).setUint32(4, 3, true);
      new DataView(bytes.buffer, bytes.byteOffset).setUint32(16, first, true);
      try {
        parseType1Info(bytes);
      } catch (error) {
        if (!GodwitError.is(error) && !(error instanceof RangeError)) throw error;
      }
    }),
    { numRuns: 2000 },
  );
});

describe('VFIO_IOMMU_GET_INFO', () => {
  function containerOf(model: VfioModel): number {
    const container = model.open('/dev/vfio/vfio');
    const group = model.open('/dev/vfio/1');
    expect(model.ioctl(group, 0x3b68, new Uint8Array(new Int32Array([container]).buffer))).toBe(0);
    expect(model.ioctl(container, 0x3b66, 3)).toBe(0);
    return container;
  }

  test('of mediated devices: no ranges', () => {
    const model = new VfioModel([{ number: 1 }]);
    expect(readType1Info(model, containerOf(model))).toEqual({
      pageSizes: 0xffff_ffff_ffff_f000n,
      smallestPageSize: 4096,
      iovaRanges: null,
      dirtyTracking: { pageSize: 4096, maximumBitmapBytes: 268_435_456 },
      mappingsAvailable: 65_535,
    });
  });

  test('behind an IOMMU: the ranges without the window of MSI', () => {
    const model = new VfioModel([{ number: 1 }], { iommu: true });
    expect(readType1Info(model, containerOf(model)).iovaRanges).toEqual([
      { start: 0n, last: 0xfedfffffn },
      { start: 0xfef00000n, last: 0xffff_ffff_ffffn },
    ]);
  });

  test('without the migration capability: no tracking', () => {
    const model = new VfioModel([{ number: 1 }], { tracking: false });
    expect(readType1Info(model, containerOf(model)).dirtyTracking).toBeNull();
  });

  test('before the IOMMU is set: the error names the call', async () => {
    const model = new VfioModel([{ number: 1 }]);
    const error = await errorOf(() => readType1Info(model, model.open('/dev/vfio/vfio')));
    expect(error.message).toMatch(/VFIO_IOMMU_GET_INFO .*EINVAL/);
  });
});
