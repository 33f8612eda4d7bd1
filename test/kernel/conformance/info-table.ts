import { Type1 } from '@godwit/vfio/unstable';
import { call, type Descriptor, MAXIMUM_BITMAP_BYTES, packed, u32 } from '../guest/vfio-calls.js';
import { errnoOrResult } from './conformance-row.js';

/** The byte that fills the buffer before the call; bytes that the kernel does not write keep it. */
const UNTOUCHED = 0xee;

export interface InfoRow {
  readonly when: string;
  readonly line: string;
  readonly argsz: number;
  /** Returns the part of the answer that the row checks. */
  readonly look: (info: DataView) => unknown;
  readonly result: unknown;
}

const argszFlagsCapOffset = (info: DataView): number[] => [0, 4, 16].map((offset) => info.getUint32(offset, true));

/** VFIO_IOMMU_GET_INFO of a container with mediated devices alone (vfio_iommu_type1.c:2756). */
export const infoTable: readonly InfoRow[] = [
  ...[0, 15].map(
    (argsz): InfoRow => ({ when: `argsz ${argsz}`, line: '2769', argsz, look: () => undefined, result: 'EINVAL' }),
  ),
  ...[24, 32, 71].map(
    (argsz): InfoRow => ({
      when: `argsz ${argsz}: it says that there is more, how much, and gives nothing of it`,
      line: '2795',
      argsz,
      look: (info) => [...argszFlagsCapOffset(info), info.getUint8(24)],
      result: [72, 3, 0, UNTOUCHED],
    }),
  ),
  {
    when: 'argsz 16: cap_offset is not written at all',
    line: '2772',
    argsz: 16,
    look: argszFlagsCapOffset,
    result: [72, 3, 0xeeee_eeee],
  },
  {
    when: 'argsz 72: the page sizes, all from 4 KiB on',
    line: '2777',
    argsz: 72,
    look: (info) => info.getBigUint64(8, true),
    result: 0xffff_ffff_ffff_f000n,
  },
  {
    when: 'argsz 72: the capabilities 2 (migration) and 3 (mappings left), and no IOVA ranges',
    line: '2779',
    argsz: 72,
    look: chain,
    result: [
      [2, 1, 24],
      [3, 1, 56],
    ],
  },
  {
    when: 'argsz 72: the migration capability: no flags, pages of 4 KiB, bitmaps of 256 MiB',
    line: '2734',
    argsz: 72,
    look: (info) => [info.getUint32(24 + 8, true), ...[16, 24].map((at) => Number(info.getBigUint64(24 + at, true)))],
    result: [0, 4096, MAXIMUM_BITMAP_BYTES],
  },
  {
    when: 'argsz 72: 65,535 mappings left',
    line: '2750',
    argsz: 72,
    look: (info) => info.getUint32(56 + 8, true),
    result: 65_535,
  },
  {
    when: 'argsz 4096: it stays, and no more than 72 bytes are written',
    line: '2798',
    argsz: 4096,
    look: (info) => [...argszFlagsCapOffset(info), info.getUint8(72)],
    result: [4096, 3, 24, UNTOUCHED],
  },
];

/** Makes the call; returns the part of the answer that the row checks, or the name of the error. */
export function askInfo(container: Descriptor, { argsz, look }: InfoRow): unknown {
  const info = packed(u32(argsz), new Uint8Array(4092).fill(UNTOUCHED));
  const result = errnoOrResult(call(container, Type1.VFIO_IOMMU_GET_INFO, info));
  return result === 0 ? look(new DataView(info.buffer)) : result;
}

/** Id, version and offset of each capability, in the order of the chain. */
function chain(info: DataView): number[][] {
  const found: number[][] = [];
  for (let offset = info.getUint32(16, true); offset !== 0; offset = info.getUint32(offset + 4, true)) {
    found.push([info.getUint16(offset, true), info.getUint16(offset + 2, true), offset]);
  }
  return found;
}
