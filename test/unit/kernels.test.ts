import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { answered, ROWS_VARIABLE, rowTable } from '../kernel/conformance/answered-rows.js';
import { answerOf, isBySeries } from '../kernel/conformance/conformance-row.js';
import { deviceFeatureTable } from '../kernel/conformance/device-feature-table.js';
import { dirtyPagesTable } from '../kernel/conformance/dirty-pages-table.js';
import { mapTable, unmapTable } from '../kernel/conformance/map-table.js';
import { setUpTable } from '../kernel/conformance/set-up-table.js';
import { newestOf } from '../kernel/harness/newest-kernel.js';

/** Which kernels the suites of test/kernel run on, and which answers belong to which. */

const README = readFileSync(join(import.meta.dirname, '../../../packages/vfio/README.md'), 'utf8');

describe('an answer that differs between kernels', () => {
  const answer = { from: { '7.3': 'EOVERFLOW', '6.12': 'EINVAL' } };
  test.each([
    ['6.12', 'EINVAL'],
    ['6.12.117+deb12-amd64', 'EINVAL'],
    ['6.18.44', 'EINVAL'],
    ['7.2.13-amd64', 'EINVAL'],
    ['7.3.4+deb13-amd64', 'EOVERFLOW'],
    ['7.10.0', 'EOVERFLOW'],
    ['8.0.1', 'EOVERFLOW'],
  ])('%s: %s', (kernel, expected) => {
    expect(answerOf(answer, kernel)).toBe(expected);
  });

  test('is none of an older kernel', () => {
    expect(() => answerOf(answer, '6.1.0')).toThrow('no answer of Linux 6.1.0');
  });

  test('one that all give', () => {
    expect([answerOf(0, '6.12'), answerOf('EINVAL', '7.3.4')]).toEqual([0, 'EINVAL']);
  });
});

test('packages/vfio/README.md has every row whose answer differs', () => {
  const tables = [
    ['', setUpTable],
    ['VFIO_IOMMU_DIRTY_PAGES: ', dirtyPagesTable],
    ['VFIO_IOMMU_MAP_DMA: ', mapTable],
    ['VFIO_IOMMU_UNMAP_DMA: ', unmapTable],
    ['VFIO_DEVICE_FEATURE: ', deviceFeatureTable],
  ] as const;
  const differing = tables.flatMap(([call, rows]) =>
    rows.flatMap(({ when, result }) =>
      isBySeries<number | string>(result)
        ? [`| ${call}${when} | ${answerOf(result, '6.12')} | ${answerOf(result, '7.3')} |`]
        : [],
    ),
  );
  const section = README.split('## On which kernels\n')[1]?.split('\n## ')[0] ?? '';
  expect(section.split('\n').filter((line) => line.startsWith('| '))).toEqual(['| row | 6.12 | 7.3 |', ...differing]);
});

describe('the newest kernel of Debian', () => {
  const names = (...releases: string[]): string[] => releases.map((release) => `linux-binary-${release}`);

  test('is the newest of series 7.3', () => {
    const there = names(
      '7.2.13+deb13-amd64',
      '7.3.4+deb13-amd64',
      '7.3.10+deb13-amd64',
      '7.3.12+deb13-cloud-amd64',
      '7.4.1+deb13-amd64',
    );
    expect(newestOf(there)).toBe('7.3.10+deb13-amd64');
  });

  test('is of a newer series when 7.3 is gone', () => {
    expect(newestOf(names('7.5.1+deb13-amd64', '7.10.2+deb13-amd64', '7.2.13+deb13-amd64'))).toBe('7.10.2+deb13-amd64');
  });

  test('is refused when it is too old, and named', () => {
    expect(() => newestOf(names('6.16.12+deb13-amd64'))).toThrow('it has 6.16.12+deb13-amd64');
    expect(() => newestOf(['linux-binary-unsigned-7.3.4+deb13-amd64'])).toThrow('it has none');
  });
});

test('the rows that a kernel was asked, as a table', () => {
  const folder = mkdtempSync(join(tmpdir(), 'rows-'));
  const path = join(folder, 'rows.jsonl');
  process.env[ROWS_VARIABLE] = path;
  try {
    const wraps = { when: 'iova + size wraps', result: { from: { '6.12': 'EINVAL', '7.3': 'EOVERFLOW' } } };
    expect(answered('MAP', wraps, '7.3.4', -75)).toBe('EOVERFLOW');
    expect(answered('MAP', { when: 'a page', result: 0 }, '7.3.4', 0)).toBe(0);
    expect(answered('UNMAP', wraps, '6.12.117', -14)).toBe('EFAULT');
  } finally {
    delete process.env[ROWS_VARIABLE];
  }
  expect(rowTable(readFileSync(path, 'utf8'))).toEqual([
    'call   when               6.12    here',
    'MAP    iova + size wraps  EINVAL  EOVERFLOW  differs',
    'MAP    a page             0       0',
    'UNMAP  iova + size wraps  EINVAL  EFAULT     WRONG: the tables say EINVAL',
    '3 rows: 2 answered differently from Linux 6.12, 1 differently from the tables',
  ]);
  rmSync(folder, { recursive: true });
});
