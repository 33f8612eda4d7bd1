import { compareWithHeaders, findCompiler, nameOf } from '@godwit/linux/testing';
import type { DefineLayout, KernelLayout, StructLayout } from '@godwit/linux/unstable';
import * as linux from '@godwit/linux/unstable';
import { defines } from '@godwit/linux/unstable';
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
  'UFFDIO_REGISTER_MODE_RWP',
  'UFFD_FEATURE_RWP',
  'UFFD_FEATURE_RWP_ASYNC',
  'UFFDIO_RWPROTECT_MODE_RWP',
  'UFFDIO_RWPROTECT_MODE_DONTWAKE',
  'UFFDIO_RWPROTECT',
  '_UFFDIO_RWPROTECT',
  'struct uffdio_rwprotect',
]);

test('the tables are all here', () => {
  expect(tables.map(([name]) => name).sort()).toEqual([
    'kvmDirtyLogLayouts',
    'kvmDirtyRingLayouts',
    'kvmLayouts',
    'libcLayouts',
    'pagemapScanLayouts',
    'tunLayouts',
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

test("system calls' numbers are those of this machine's headers, and of arm64's", () => {
  for (const [architecture, cc] of [
    ['x64', process.arch === 'x64' ? compiler : null],
    ['arm64', findCompiler('arm64')],
  ] as const) {
    if (cc === null) continue;
    const table = defines(
      'sys/syscall.h',
      Object.fromEntries(
        Object.entries(linux.SYSCALLS[architecture] ?? {}).map(([name, number]) => [`SYS_${name}`, number]),
      ),
    );
    const { checked, wrong, missing } = compareWithHeaders(cc, table);
    expect({ architecture, checked, wrong, missing }).toEqual({ architecture, checked: 4, wrong: [], missing: [] });
  }
});

const arm64 = findCompiler('arm64');
const testArm64 = testWhen(
  arm64 === null
    ? { usable: false, reason: 'there is no compiler for arm64, Debian has gcc-aarch64-linux-gnu' }
    : { usable: true },
);
testArm64("arm64's headers agree with all that is not said to be x86-64's only", () => {
  const common = layouts.filter(({ only }) => only === undefined);
  const { checked, wrong, missing } = compareWithHeaders(arm64 as string, common);
  // In Linux 6.1, whose headers Debian 12 has for arm64, its KVM has no dirty ring yet.
  const since62 = 'linux/kvm.h: KVM_DIRTY_LOG_PAGE_OFFSET is 0, the table says 64';
  expect(wrong.filter((line) => line !== since62)).toEqual([]);
  expect(missing.filter((name) => !SINCE_6_2.has(name))).toEqual([]);
  expect(checked).toBeGreaterThan(300);
});

testArm64("a struct that is said to be x86-64's only is not on arm64, or not like this", () => {
  const marked = layouts.filter(isStruct).filter(({ only }) => only === 'x64');
  expect(marked.length).toBeGreaterThan(10);
  const same = marked.filter((layout) => {
    try {
      const { wrong, missing } = compareWithHeaders(arm64 as string, [layout]);
      return wrong.length + missing.length === 0;
    } catch {
      // The compiler refuses: a field that the struct does not have, or the size of one that there is not.
      return false;
    }
  });
  expect(same.map(nameOf)).toEqual([]);
});
