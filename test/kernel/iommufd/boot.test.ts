import { existsSync, readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';

test('this is the small kernel, with iommufd', () => {
  expect(readFileSync('/proc/version', 'utf8')).toMatch(/^Linux version 6\.12\.\d+ /);
  expect(existsSync('/dev/iommu')).toBe(true);
});
