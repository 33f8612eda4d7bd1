import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { hostSupport } from '@godwit/linux';
import { expect, test } from '@jest/globals';

test('this is Debian’s kernel 6.12', () => {
  expect(readFileSync('/proc/version', 'utf8')).toMatch(/^Linux version 6\.12\.\d+\+deb\d+-amd64 .*Debian/);
});

test('it has what the suites need: VFIO, an IOMMU, KVM, userfaultfd', () => {
  expect(existsSync('/dev/vfio/vfio')).toBe(true);
  expect(readdirSync('/sys/kernel/iommu_groups').length).toBeGreaterThan(0);
  const support = hostSupport();
  expect(support.kvm).toEqual({ usable: true });
  expect(support.userfaultfdKernelFaults).toEqual({ usable: true });
});

test('the host’s files cannot be written from inside', () => {
  expect(() => writeFileSync(`${process.cwd()}/package.json`, '')).toThrow('EROFS');
});
