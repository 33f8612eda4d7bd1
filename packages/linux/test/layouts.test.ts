import { compareWithHeaders, findCompiler, nameOf } from '@godwit/linux/testing';
import type { DefineLayout, KernelLayout, StructLayout } from '@godwit/linux/unstable';
import * as linux from '@godwit/linux/unstable';
import { expect, test } from '@jest/globals';
import { testWhen } from './when-usable.js';

/** Every exported table of the package. */
const tables = Object.entries(linux).filter(([name]) => name.endsWith('Layouts')) as [
  string,
  readonly KernelLayout[],
][];
const layouts = tables.flatMap(([, table]) => table);
function isStruct(layout: KernelLayout): layout is StructLayout {
  return 'struct' in layout;
}

/** Not yet in the headers of Linux 6.1, which Debian 12 has. Anything else that is missing is a name we got wrong. */
const SINCE_6_2: ReadonlySet<string> = new Set([
  ...linux.pagemapScanLayouts.map(nameOf),
  'KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP',
  'UFFD_FEATURE_WP_UNPOPULATED',
  'UFFD_FEATURE_POISON',
  'UFFD_FEATURE_WP_ASYNC',
  'UFFD_FEATURE_MOVE',
  'UFFDIO_CONTINUE_MODE_WP',
  'UFFDIO_POISON_MODE_DONTWAKE',
  'UFFDIO_POISON',
  '_UFFDIO_POISON',
  'struct uffdio_poison',
]);

test('the tables are all here', () => {
  expect(tables.map(([name]) => name).sort()).toEqual([
    'kvmDirtyLogLayouts',
    'kvmDirtyRingLayouts',
    'kvmLayouts',
    'libcLayouts',
    'pagemapScanLayouts',
    'userfaultfdLayouts',
  ]);
  expect(layouts.length).toBeGreaterThan(80);
});

test('an ioctl number carries the size of its struct', () => {
  const sizes = new Map(layouts.filter(isStruct).map(({ struct, size }) => [struct, size]));
  const requests = layouts.filter(
    (layout): layout is DefineLayout => !isStruct(layout) && layout.argument !== undefined,
  );
  expect(requests.length).toBeGreaterThan(6);
  for (const { define, value, argument } of requests) {
    // asm-generic/ioctl.h: _IOC_SIZESHIFT 16, _IOC_SIZEBITS 14
    expect([define, (value >>> 16) & 0x3fff]).toEqual([define, sizes.get(argument as string)]);
  }
});

const compiler = findCompiler();
const testCompiler = testWhen(
  compiler === null ? { usable: false, reason: 'there is no C compiler, cc' } : { usable: true },
);
testCompiler('the compiler agrees with every size, offset and number that its headers know', () => {
  const { checked, wrong, missing } = compareWithHeaders(compiler as string, layouts);
  if (missing.length > 0)
    process.stderr.write(`not in this machine's headers, so not compared: ${missing.join(', ')}\n`);
  expect(wrong).toEqual([]);
  expect(missing.filter((name) => !SINCE_6_2.has(name))).toEqual([]);
  expect(checked).toBeGreaterThan(150);
});
