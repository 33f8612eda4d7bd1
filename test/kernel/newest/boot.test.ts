import { release } from 'node:os';
import { hostSupport } from '@godwit/linux';
import { expect, test } from '@jest/globals';

test('this is Linux 7.3 or newer, with read-write protection by userfaultfd', () => {
  const [major, minor] = release().split('.').map(Number) as [number, number];
  expect(major * 1000 + minor).toBeGreaterThanOrEqual(7003);
  expect(hostSupport().accessProtect).toEqual({ usable: true });
});
