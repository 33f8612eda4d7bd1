import { tryIoctl } from '@godwit/linux';
import { packed, u32, u64, VfioRequest, withAddress } from './vfio-calls.js';

/** linux/vfio.h: features of VFIO_DEVICE_FEATURE, and what to do with them. */
export const Feature = {
  MIGRATION: 1,
  MIG_DEVICE_STATE: 2,
  DMA_LOGGING_START: 6,
  DMA_LOGGING_STOP: 7,
  DMA_LOGGING_REPORT: 8,
  MIG_DATA_SIZE: 9,
} as const;
export const GET = 1 << 16;
export const SET = 1 << 17;
export const PROBE = 1 << 18;

/**
 * VFIO_DEVICE_FEATURE with `flags` (a feature, and GET, SET or PROBE) and `data` behind the head.
 *
 * @returns the result, or minus errno; what the kernel writes is then in `data`
 */
export function feature(
  fd: number,
  flags: number,
  data: Uint8Array = new Uint8Array(0),
  argsz = 8 + data.byteLength,
): number {
  const argument = packed(u32(argsz, flags), data);
  const result = tryIoctl(fd, VfioRequest.DEVICE_FEATURE, argument);
  data.set(argument.subarray(8));
  return result;
}

export interface LoggedRange {
  readonly iova: number | bigint;
  readonly length: number | bigint;
}

/** DMA_LOGGING_START for these ranges; `count` and `at` say other numbers than theirs. */
export function startLogging(
  fd: number,
  ranges: readonly LoggedRange[],
  wrong: { readonly pageSize?: number; readonly count?: number; readonly at?: bigint } = {},
): number {
  const list = u64(...ranges.flatMap(({ iova, length }) => [iova, length]), 0);
  return withAddress(list, (address) => {
    const head = u64(wrong.pageSize ?? 4096);
    const control = packed(head, u32(wrong.count ?? ranges.length, 0), u64(wrong.at ?? address));
    return feature(fd, Feature.DMA_LOGGING_START | SET, control);
  });
}

/** DMA_LOGGING_REPORT into `bitmap`. */
export function reportLogged(
  fd: number,
  { iova, length }: LoggedRange,
  bitmap: Uint8Array,
  pageSize: number | bigint = 4096,
): number {
  return withAddress(bitmap, (address) =>
    feature(fd, Feature.DMA_LOGGING_REPORT | GET, u64(iova, length, pageSize, address)),
  );
}
