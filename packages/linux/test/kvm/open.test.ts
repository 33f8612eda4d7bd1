import { readdirSync } from 'node:fs';
import { hostSupport, Kvm, probeKvm } from '@godwit/linux';
import { Cpuid } from '@godwit/linux/kvm';
import { expect, test } from '@jest/globals';
import { errorOf } from '../error-of.js';
import { testWhen } from '../when-usable.js';
import { RealModeGuest } from './real-mode-guest.js';

const testKvm = testWhen(hostSupport().kvm);

test('a missing device says what to do', async () => {
  const error = await errorOf(() => Kvm.open('/dev/kvm-that-is-not-there'));
  expect(error.code).toBe('GODWIT_UNSUPPORTED');
  expect(error.message).toMatch(/\/dev\/kvm-that-is-not-there.*ENOENT.*modprobe/);
  expect(probeKvm('/dev/kvm-that-is-not-there')).toMatchObject({ usable: false });
});

test('something that is not KVM is refused, and closed again', async () => {
  const before = readdirSync('/proc/self/fd').length;
  const error = await errorOf(() => Kvm.open('/dev/null'));
  expect(error.code).toBe('GODWIT_SYSCALL');
  expect(error.message).toContain('KVM_GET_API_VERSION');
  expect(readdirSync('/proc/self/fd')).toHaveLength(before);
});

testKvm('closing frees every descriptor', () => {
  const before = readdirSync('/proc/self/fd').length;
  for (let i = 0; i < 5; i++) {
    const kvm = Kvm.open();
    const guest = new RealModeGuest(kvm, [0xf4]);
    expect(readdirSync('/proc/self/fd')).toHaveLength(before + 3);
    guest.close();
    guest.vcpu.close();
    guest.vm.close();
    kvm.close();
    kvm.close();
  }
  expect(readdirSync('/proc/self/fd')).toHaveLength(before);
});

test('CPUID round trip, and bytes that are none', async () => {
  const entry = { function: 0x8000_0001, index: 7, flags: 1, eax: 0xffff_ffff, ebx: 2, ecx: 3, edx: 0x8000_0000 };
  const cpuid = new Cpuid([entry, { ...entry, function: 1, index: 0 }]);
  expect(Cpuid.decode(cpuid.encode()).entries).toEqual(cpuid.entries);
  expect(cpuid.forVcpu(5).entries[1]?.ebx).toBe(0x0500_0002);
  for (const bytes of [new Uint8Array(0), new Uint8Array(8), cpuid.encode().subarray(0, 80)]) {
    expect((await errorOf(() => Cpuid.decode(bytes))).code).toBe('GODWIT_INVALID_ARGUMENT');
  }
});

test('on another processor than x86-64 the bindings of KVM say so by a code, whatever device there is', async () => {
  const arch = Object.getOwnPropertyDescriptor(process, 'arch') as PropertyDescriptor;
  Object.defineProperty(process, 'arch', { ...arch, value: 'arm64' });
  try {
    const error = await errorOf(() => Kvm.open());
    expect([error.code, error.message]).toEqual(['GODWIT_UNSUPPORTED', expect.stringMatching(/x86-64.*arm64/)]);
    const { kvm, kvmManualDirtyLog, kvmDirtyRing } = hostSupport();
    expect([kvm.usable, kvmManualDirtyLog.usable, kvmDirtyRing.usable]).toEqual([false, false, false]);
  } finally {
    Object.defineProperty(process, 'arch', arch);
  }
});
