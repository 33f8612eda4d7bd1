import { expect, test } from '@jest/globals';
import { countsOf, resultsOf } from '../kernel/selftests/verdict.js';

/** What the kernel's selftests print, in the forms of their kinds. */

const HARNESS = `TAP version 13
1..4
# Starting 4 tests from 2 test cases.
#  RUN           iommufd.simple ...
#            OK  iommufd.simple
ok 1 iommufd.simple
# iommufd.c:2030:set_dirty:Expected 1 (1) == 0 (0)
not ok 2 iommufd_dirty_tracking.domain_dirty128k.set_dirty
ok 3 iommufd.huge # SKIP no huge pages
ok 4 iommufd.other # XFAIL known
# FAILED: 3 / 4 tests passed.
# Totals: pass:2 fail:1 xfail:1 xpass:0 skip:1 error:0
`;

test('the harness: one result a line, comments are none', () => {
  expect(resultsOf('iommu/iommufd', { text: HARNESS, status: 1 })).toEqual([
    { name: 'iommufd.simple', outcome: 'ok' },
    {
      name: 'iommufd_dirty_tracking.domain_dirty128k.set_dirty',
      outcome: 'not ok',
      why: 'iommufd.c:2030:set_dirty:Expected 1 (1) == 0 (0)',
    },
    { name: 'iommufd.huge', outcome: 'skip' },
    { name: 'iommufd.other', outcome: 'ok' },
  ]);
});

test('kselftest.h: SKIP before the name', () => {
  const text = '1..2\nok 1 sanity_tests_sd\nok 2 # SKIP hugetlb\n';
  const results = resultsOf('mm/pagemap_ioctl', { text, status: 0 });
  expect(results.map(({ outcome }) => outcome)).toEqual(['ok', 'skip']);
  expect(results[1]?.name).toBe('hugetlb');
});

test('userfaultfd of 6.12 has words of its own', () => {
  const text = [
    'Testing UFFDIO_API (with syscall)... done',
    'Testing wp-fork on hugetlb... skipped [reason: memory allocation failed]',
    'Testing poison on anon... failed [reason: no]',
    'Userfaults unit tests: pass=1, skip=1, fail=1 (total=3)',
  ].join('\n');
  const results = resultsOf('mm/uffd-unit-tests', { text, status: 1 });
  expect(countsOf(results)).toEqual({ ok: 1, notOk: 1, skip: 1 });
  expect(results.at(-1)?.why).toBe('no');
});

test.each([
  [0, 'ok'],
  [4, 'skip'],
  [254, 'not ok'],
  [124, 'not ok'],
])('a selftest that prints no results: status %i is %s', (status, outcome) => {
  const text = 'Test iterations: 3, interval: 10 (ms)\n';
  expect(resultsOf('kvm/dirty_log_test', { text, status })).toEqual([{ name: 'kvm/dirty_log_test', outcome }]);
});

test.each([
  ['one that ends before its plan', '1..3\nok 1 a\nok 2 b\n', 0],
  ['one that dies after its plan', '1..2\nok 1 a\nok 2 b\n', 139],
])('%s fails by that', (_name, text, status) => {
  expect(resultsOf('x', { text, status }).at(-1)?.outcome).toBe('not ok');
});

test('in one run two tests of one name are two', () => {
  const text = '1..3\nok 1 get half huge page\nok 2 get half huge page\nok 3 other\n';
  expect(countsOf(resultsOf('mm/pagemap_ioctl', { text, status: 0 }))).toEqual({ ok: 3, notOk: 0, skip: 0 });
});

test('several runs of parts: plans add up, and a test that ran twice counts once', () => {
  const text =
    '1..2\nok 1 wp-fork on anon\nok 2 rwp-fork on anon\n1..2\nnot ok 1 rwp-fork on anon\nok 2 rwp-gup on anon\n';
  const results = resultsOf('mm/uffd-unit-tests', { text, status: 1 });
  expect(countsOf(results)).toEqual({ ok: 2, notOk: 1, skip: 0 });
});
