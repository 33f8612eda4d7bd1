import { DeviceFeature } from '@godwit/vfio/unstable';
import { call, type Descriptor, packed, u32, u64, withAddress } from './vfio-calls.js';

/** Features of VFIO_DEVICE_FEATURE, and the flags of an operation on them. */
export const Feature = {
  MIGRATION: DeviceFeature.VFIO_DEVICE_FEATURE_MIGRATION,
  MIG_DEVICE_STATE: DeviceFeature.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  DMA_LOGGING_START: DeviceFeature.VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  DMA_LOGGING_STOP: DeviceFeature.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  DMA_LOGGING_REPORT: DeviceFeature.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  MIG_DATA_SIZE: DeviceFeature.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
} as const;
export const GET = DeviceFeature.VFIO_DEVICE_FEATURE_GET;
export const SET = DeviceFeature.VFIO_DEVICE_FEATURE_SET;
export const PROBE = DeviceFeature.VFIO_DEVICE_FEATURE_PROBE;

/**
 * VFIO_DEVICE_FEATURE with `flags` (a feature, and GET, SET or PROBE) and `data` behind the head.
 *
 * @returns the result, or minus errno; what the kernel writes is then in `data`
 */
export function feature(
  device: Descriptor,
  flags: number,
  data: Uint8Array = new Uint8Array(0),
  argsz = 8 + data.byteLength,
): number {
  const argument = packed(u32(argsz, flags), data);
  const result = call(device, DeviceFeature.VFIO_DEVICE_FEATURE, argument);
  data.set(argument.subarray(8));
  return result;
}

export interface LoggedRange {
  readonly iova: number | bigint;
  readonly length: number | bigint;
}

/** DMA_LOGGING_START for these ranges; `count` and `at` replace the number and the address of the ranges. */
export function startLogging(
  device: Descriptor,
  ranges: readonly LoggedRange[],
  wrong: { readonly pageSize?: number; readonly count?: number; readonly at?: bigint } = {},
): number {
  const list = u64(...ranges.flatMap(({ iova, length }) => [iova, length]), 0);
  return withAddress(list, (address) => {
    const head = u64(wrong.pageSize ?? 4096);
    const control = packed(head, u32(wrong.count ?? ranges.length, 0), u64(wrong.at ?? address));
    return feature(device, Feature.DMA_LOGGING_START | SET, control);
  });
}

/** DMA_LOGGING_REPORT into `bitmap`. */
export function reportLogged(
  device: Descriptor,
  { iova, length }: LoggedRange,
  bitmap: Uint8Array,
  pageSize: number | bigint = 4096,
): number {
  return withAddress(bitmap, (address) =>
    feature(device, Feature.DMA_LOGGING_REPORT | GET, u64(iova, length, pageSize, address)),
  );
}
