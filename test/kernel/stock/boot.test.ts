import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { hostSupport } from '@godwit/linux';
import { expect, test } from '@jest/globals';
import { MODULES_VARIABLE } from '../guest/linux-files.js';

test('this is Debian’s kernel, the one that the machine is for', () => {
  const version = readFileSync('/proc/version', 'utf8');
  expect(version).toMatch(/^Linux version (6\.12|7\.\d+)\.\d+\+deb\d+-amd64 .*Debian/);
  expect(process.env[MODULES_VARIABLE]).toContain(`/lib/modules/${release()}/`);
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
