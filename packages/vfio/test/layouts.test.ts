import { compareWithHeaders, findCompiler, nameOf } from '@godwit/linux/testing';
import type { KernelLayout } from '@godwit/linux/unstable';
import * as vfio from '@godwit/vfio/unstable';
import { expect, test } from '@jest/globals';

/** Every exported table of the package. */
const tables = Object.entries(vfio).filter(([name]) => name.endsWith('Layouts')) as [string, readonly KernelLayout[]][];
const layouts = tables.flatMap(([, table]) => table);

/** Not yet in the headers of Linux 6.1, which Debian 12 has. Anything else that is missing is a name we got wrong. */
const SINCE_6_2: ReadonlySet<string> = new Set([
  '<linux/iommufd.h>',
  'struct vfio_device_feature_mig_data_size',
  'VFIO_DEVICE_FEATURE_MIG_DATA_SIZE',
  'struct vfio_precopy_info',
  'VFIO_MIGRATION_PRE_COPY',
  'VFIO_MIG_GET_PRECOPY_INFO',
  'VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2',
  'VFIO_PRECOPY_INFO_REINIT',
  'VFIO_DEVICE_STATE_PRE_COPY',
  'VFIO_DEVICE_STATE_PRE_COPY_P2P',
  'struct vfio_device_bind_iommufd',
  'struct vfio_device_attach_iommufd_pt',
  'struct vfio_device_detach_iommufd_pt',
  'VFIO_DEVICE_BIND_IOMMUFD',
  'VFIO_DEVICE_ATTACH_IOMMUFD_PT',
  'VFIO_DEVICE_DETACH_IOMMUFD_PT',
  ...vfio.iommufdLayouts.filter(({ header }) => header === 'linux/iommufd.h').map(nameOf),
]);

test('the tables are all here', () => {
  expect(tables.map(([name]) => name).sort()).toEqual([
    'deviceFeatureLayouts',
    'iommufdLayouts',
    'type1Layouts',
    'vfioSetupLayouts',
  ]);
  expect(layouts.length).toBeGreaterThan(90);
});

test('no struct has fields that overlap or reach over its end', () => {
  for (const layout of layouts) {
    if (!('struct' in layout)) continue;
    let end = 0;
    for (const [offset, size] of Object.values(layout.fields).sort(([a], [b]) => a - b)) {
      expect(offset).toBeGreaterThanOrEqual(end);
      end = offset + size;
    }
    expect(end).toBeLessThanOrEqual(layout.size);
  }
});

const compiler = findCompiler();
const testCompiler = compiler === null ? test.skip : test;
testCompiler(
  `the compiler agrees with every size, offset and number that its headers know${
    compiler === null ? ' (skipped: there is no C compiler, cc)' : ''
  }`,
  () => {
    const { checked, wrong, missing } = compareWithHeaders(compiler as string, layouts);
    if (missing.length > 0)
      process.stderr.write(`not in this machine's headers, so not compared: ${missing.join(', ')}\n`);
    expect(wrong).toEqual([]);
    expect(missing.filter((name) => !SINCE_6_2.has(name))).toEqual([]);
    expect(checked).toBeGreaterThan(100);
  },
);

const arm64 = findCompiler('arm64');
(arm64 === null ? test.skip : test)(
  `arm64's headers agree too${
    arm64 === null ? ' (skipped: there is no compiler for arm64, Debian has gcc-aarch64-linux-gnu)' : ''
  }`,
  () => {
    const { checked, wrong, missing } = compareWithHeaders(arm64 as string, layouts);
    expect(wrong).toEqual([]);
    expect(missing.filter((name) => !SINCE_6_2.has(name))).toEqual([]);
    expect(checked).toBeGreaterThan(100);
  },
);
