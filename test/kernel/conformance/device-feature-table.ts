import { DeviceFeature } from '@godwit/vfio/unstable';
import { Feature, feature, GET, PROBE, reportLogged, SET, startLogging } from '../guest/device-feature.js';
import { call, type Descriptor, u32, u64 } from '../guest/vfio-calls.js';
import type { ConformanceRow } from './conformance-row.js';

/**
 * Open devices: mtty can be migrated, and accepts the calls of DMA logging without logging anything; the test device
 * really logs.
 */
export interface FeatureBench {
  readonly mtty: Descriptor;
  readonly dma: Descriptor;
  readonly unmapped: bigint;
}

type FeatureRow = ConformanceRow<FeatureBench>;

const EIGHT = () => new Uint8Array(8);
const RANGE = { iova: 0x10_0000, length: 0x1_0000 };
const RANGES_257 = Array.from({ length: 257 }, (_, i) => ({ iova: i * 8192, length: 4096 }));

/** After a START that must succeed. */
function started(then: (bench: FeatureBench) => number): (bench: FeatureBench) => number {
  return (bench) => startLogging(bench.dma, [RANGE]) || then(bench);
}

/** VFIO_DEVICE_FEATURE: vfio_main.c, and vfio_check_feature in include/linux/vfio.h. */
export const deviceFeatureTable: readonly FeatureRow[] = [
  {
    when: 'the argument cannot be read',
    line: '1216',
    call: ({ mtty, unmapped }) => call(mtty, DeviceFeature.VFIO_DEVICE_FEATURE, unmapped),
    result: 'EFAULT',
  },
  {
    when: 'argsz 7',
    line: '1219',
    call: ({ mtty }) => feature(mtty, Feature.MIGRATION | GET, EIGHT(), 7),
    result: 'EINVAL',
  },
  {
    when: 'an unknown flag',
    line: '1223',
    call: ({ mtty }) => feature(mtty, Feature.MIGRATION | GET | (1 << 19), EIGHT()),
    result: 'EINVAL',
  },
  {
    when: 'GET and SET without PROBE',
    line: '1229',
    call: ({ mtty }) => feature(mtty, Feature.MIG_DEVICE_STATE | GET | SET, EIGHT()),
    result: 'EINVAL',
  },
  {
    when: 'neither GET nor SET',
    line: 'vfio.h:258',
    call: ({ mtty }) => feature(mtty, Feature.MIGRATION, EIGHT()),
    result: 'EINVAL',
  },
  {
    when: 'SET of a feature that can only be got',
    line: 'vfio.h:252',
    call: ({ mtty }) => feature(mtty, Feature.MIGRATION | SET, EIGHT()),
    result: 'EINVAL',
  },
  {
    when: 'too little room for the data',
    line: 'vfio.h:260',
    call: ({ mtty }) => feature(mtty, Feature.MIGRATION | GET, new Uint8Array(7)),
    result: 'EINVAL',
  },
  {
    when: 'PROBE, without room for data',
    line: 'vfio.h:255',
    call: ({ mtty }) => feature(mtty, Feature.MIGRATION | GET | PROBE),
    result: 0,
  },
  {
    when: 'PROBE for GET and SET at once',
    line: '1229',
    call: ({ mtty }) => feature(mtty, Feature.MIG_DEVICE_STATE | GET | SET | PROBE),
    result: 0,
  },
  {
    when: 'PROBE for a SET that is not there',
    line: 'vfio.h:252',
    call: ({ mtty }) => feature(mtty, Feature.MIGRATION | SET | PROBE),
    result: 'EINVAL',
  },
  {
    when: 'a feature that is not there',
    line: '1260',
    call: ({ mtty }) => feature(mtty, 99 | GET, EIGHT()),
    result: 'ENOTTY',
  },
  {
    when: 'PROBE for a feature that is not there',
    line: '1260',
    call: ({ mtty }) => feature(mtty, 99 | GET | PROBE),
    result: 'ENOTTY',
  },
  { when: 'MIGRATION', line: '972', call: ({ mtty }) => feature(mtty, Feature.MIGRATION | GET, EIGHT()), result: 0 },
  {
    when: 'MIGRATION of a device that cannot be migrated',
    line: '980',
    call: ({ dma }) => feature(dma, Feature.MIGRATION | GET, EIGHT()),
    result: 'ENOTTY',
  },
  {
    when: 'MIG_DEVICE_STATE of a device that cannot be migrated',
    line: '904',
    call: ({ dma }) => feature(dma, Feature.MIG_DEVICE_STATE | GET, EIGHT()),
    result: 'ENOTTY',
  },
  {
    when: 'MIG_DATA_SIZE',
    line: '945',
    call: ({ mtty }) => feature(mtty, Feature.MIG_DATA_SIZE | GET, EIGHT()),
    result: 0,
  },
  {
    when: 'MIG_DATA_SIZE of a device that cannot be migrated',
    line: '952',
    call: ({ dma }) => feature(dma, Feature.MIG_DATA_SIZE | GET, EIGHT()),
    result: 'ENOTTY',
  },
  {
    when: 'MIG_DEVICE_STATE: to ERROR',
    line: '667',
    call: ({ mtty }) => feature(mtty, Feature.MIG_DEVICE_STATE | SET, u32(0, 0)),
    result: 'EINVAL',
  },
  {
    when: 'MIG_DEVICE_STATE: to a state that does not exist',
    line: '667',
    call: ({ mtty }) => feature(mtty, Feature.MIG_DEVICE_STATE | SET, u32(8, 0)),
    result: 'EINVAL',
  },
  {
    when: 'MIG_DEVICE_STATE: to RUNNING, where it is',
    line: '667',
    call: ({ mtty }) => feature(mtty, Feature.MIG_DEVICE_STATE | SET, u32(2, 0)),
    result: 0,
  },
  { when: 'DMA_LOGGING_START', line: '1123', call: ({ dma }) => startLogging(dma, [RANGE]), result: 0 },
  {
    when: 'DMA_LOGGING_START with two ranges that touch',
    line: '1114',
    call: ({ dma }) => startLogging(dma, [RANGE, { ...RANGE, iova: RANGE.iova + RANGE.length }]),
    result: 0,
  },
  {
    when: 'DMA_LOGGING_START with 256 ranges',
    line: '1086',
    call: ({ dma }) => startLogging(dma, RANGES_257.slice(1)),
    result: 0,
  },
  {
    when: 'DMA_LOGGING_START with 257 ranges',
    line: '1086',
    call: ({ dma }) => startLogging(dma, RANGES_257),
    result: 'E2BIG',
  },
  {
    when: 'DMA_LOGGING_START without a range',
    line: '1083',
    call: ({ dma }) => startLogging(dma, []),
    result: 'EINVAL',
  },
  {
    when: 'DMA_LOGGING_START with an iova that is not aligned',
    line: '1100',
    call: ({ dma }) => startLogging(dma, [{ ...RANGE, iova: RANGE.iova + 512 }]),
    result: 'EINVAL',
  },
  {
    when: 'DMA_LOGGING_START with a length that is not aligned',
    line: '1101',
    call: ({ dma }) => startLogging(dma, [{ ...RANGE, length: 512 }]),
    result: 'EINVAL',
  },
  {
    when: 'DMA_LOGGING_START with ranges that overlap',
    line: '1114',
    call: ({ dma }) => startLogging(dma, [RANGE, { iova: RANGE.iova + 4096, length: 4096 }]),
    result: 'EINVAL',
  },
  {
    when: 'DMA_LOGGING_START with a range that wraps',
    line: '1106',
    call: ({ dma }) => startLogging(dma, [{ iova: 2n ** 64n - 4096n, length: 8192 }]),
    result: 'EOVERFLOW',
  },
  {
    when: 'DMA_LOGGING_START: the ranges cannot be read',
    line: '1096',
    call: ({ dma, unmapped }) => startLogging(dma, [RANGE], { at: unmapped }),
    result: 'EFAULT',
  },
  {
    when: 'DMA_LOGGING_START a second time',
    line: 'the driver',
    call: started(({ dma }) => startLogging(dma, [RANGE])),
    result: 'EBUSY',
  },
  {
    when: 'DMA_LOGGING_STOP',
    line: '1153',
    call: started(({ dma }) => feature(dma, Feature.DMA_LOGGING_STOP | SET)),
    result: 0,
  },
  {
    when: 'DMA_LOGGING_STOP without START',
    line: '1153',
    call: ({ dma }) => feature(dma, Feature.DMA_LOGGING_STOP | SET),
    result: 0,
  },
  {
    when: 'DMA_LOGGING_REPORT with a page size of 2048',
    line: '1187',
    call: started(({ dma }) => reportLogged(dma, RANGE, EIGHT(), 2048)),
    result: 'EINVAL',
  },
  {
    when: 'DMA_LOGGING_REPORT with a page size of 12288',
    line: '1187',
    call: started(({ dma }) => reportLogged(dma, RANGE, EIGHT(), 12288)),
    result: 'EINVAL',
  },
  {
    when: 'DMA_LOGGING_REPORT of a range that wraps',
    line: '1190',
    call: started(({ dma }) => reportLogged(dma, { iova: 2n ** 64n - 4096n, length: 8192 }, EIGHT())),
    result: 'EOVERFLOW',
  },
  {
    when: 'DMA_LOGGING_REPORT with too little data',
    line: 'vfio.h:260',
    call: started(({ dma }) => feature(dma, Feature.DMA_LOGGING_REPORT | GET, u64(RANGE.iova, RANGE.length, 4096))),
    result: 'EINVAL',
  },
];

/** The only answer that depends on the kernel's configuration. */
export function reportRow(iommufd: boolean): FeatureRow {
  return {
    when: `DMA_LOGGING_REPORT ${iommufd ? 'with' : 'without'} CONFIG_IOMMUFD`,
    line: 'include/linux/iova_bitmap.h:41',
    call: started(({ dma }) => reportLogged(dma, RANGE, EIGHT())),
    result: iommufd ? 0 : 'EOPNOTSUPP',
  };
}
