import { hostSupport, Kvm } from '@godwit/linux';
import { Cpuid, type CpuidEntry, type CpuModel, cpuidOfModel, msrName } from '@godwit/linux/kvm';
import { expect, test } from '@jest/globals';
import { testWhen } from '../when-usable.js';

const testKvm = testWhen(hostSupport().kvm);
const ALL = 0xffff_ffff;

function leaf(fn: number, registers: Partial<CpuidEntry>, index = 0): CpuidEntry {
  return { function: fn, index, flags: 0, eax: 0, ebx: 0, ecx: 0, edx: 0, ...registers };
}

function named(vendor: string): Partial<CpuidEntry> {
  const [ebx = 0, edx = 0, ecx = 0] = new Uint32Array(Uint8Array.from(Buffer.from(vendor)).buffer);
  return { ebx, edx, ecx };
}

/** A host with every feature, and more besides that differs from host to host. */
function everything(vendor: string, more: number): Cpuid {
  return new Cpuid([
    leaf(0, { eax: 0x20 + more, ...named(vendor) }),
    leaf(1, { eax: 0xc06f0 + more, ebx: more << 16, ecx: ALL, edx: ALL }),
    leaf(4, { eax: 0x121, ebx: more }),
    leaf(7, { eax: 2, ebx: ALL, ecx: ALL, edx: ALL }),
    leaf(0xd, { eax: 0x2e7, ebx: 2696, ecx: 2696 }),
    leaf(0xd, { eax: 0x1f }, 1),
    leaf(0xd, { eax: 256, ebx: 576 }, 2),
    leaf(0xd, { eax: 64, ebx: 1088 }, 5),
    leaf(0xd, { eax: 512, ebx: 1152 }, 6),
    leaf(0xd, { eax: 1024, ebx: 1664 }, 7),
    leaf(0x4000_0001, { eax: ALL }),
    leaf(0x8000_0001, { ecx: ALL, edx: ALL }),
    leaf(0x8000_0008, { eax: 0x3028 + more }),
  ]);
}

const without = (host: Cpuid, fn: number, register: 'ebx' | 'ecx', bit: number) =>
  host.without(fn, 0, register, 1 << bit);

test.each(['x86-64', 'x86-64-v2', 'x86-64-v3', 'x86-64-v4'] as const)(
  '%s is the same on two different hosts',
  (model) => {
    const one = cpuidOfModel(model, everything('GenuineIntel', 1));
    expect(one).toEqual(cpuidOfModel(model, everything('GenuineIntel', 12)));
    expect(one.missingOn(everything('GenuineIntel', 0))).toEqual([]);
    expect(one.missingOn(one)).toEqual([]);
  },
);

test('each level has the features of the one below, and its own', () => {
  const of = (model: CpuModel) => cpuidOfModel(model, everything('GenuineIntel', 0));
  expect(of('x86-64').missingOn(of('x86-64-v2'))).toEqual([]);
  expect([...of('x86-64-v2').missingOn(of('x86-64'))].sort()).toEqual(
    ['cx16', 'lahf_lm', 'pni', 'popcnt', 'sse4_1', 'sse4_2', 'ssse3'].sort(),
  );
  expect(of('x86-64-v3').missingOn(of('x86-64-v2'))).toEqual(expect.arrayContaining(['avx2', 'bmi2', 'fma', 'abm']));
  expect(of('x86-64-v4').missingOn(of('x86-64-v3'))).toEqual(
    expect.arrayContaining(['avx512f', 'avx512vl', 'xsave_hi16_zmm']),
  );
  // The XSAVE area has the components of the level, and no more.
  expect(of('x86-64').leaf(0xd)).toBeUndefined();
  expect(of('x86-64-v3').leaf(0xd)).toMatchObject({ eax: 0x7, ebx: 832 });
  expect(of('x86-64-v4').leaf(0xd)).toMatchObject({ eax: 0xe7, ebx: 2688 });
});

test('a host without a feature of the model is told which', () => {
  const host = without(without(everything('GenuineIntel', 0), 7, 'ebx', 16), 1, 'ecx', 23);
  expect(() => cpuidOfModel('x86-64-v4', host)).toThrow(
    expect.objectContaining({ code: 'GODWIT_UNSUPPORTED', message: expect.stringContaining('popcnt, avx512f') }),
  );
  expect(() => cpuidOfModel('x86-64', host)).not.toThrow();
  expect(() => cpuidOfModel('pentium' as CpuModel, host)).toThrow(
    expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }),
  );
});

test('the vendor and the width of addresses are compared too', () => {
  const intel = cpuidOfModel('x86-64', everything('GenuineIntel', 0));
  expect(intel.vendor).toBe('GenuineIntel');
  expect(intel.missingOn(everything('AuthenticAMD', 0))).toEqual(['vendor GenuineIntel (the host has AuthenticAMD)']);
  const narrow = new Cpuid(
    everything('GenuineIntel', 0).entries.map((entry) =>
      entry.function === 0x8000_0008 ? { ...entry, eax: 0x3027 } : entry,
    ),
  );
  expect(intel.missingOn(narrow)).toEqual(['physical addresses of 40 bits (the host has 39)']);
});

test('features whose state does not move are not given to a guest', () => {
  const host = everything('GenuineIntel', 0);
  expect([...host.missingOn(cpuidOfModel('host', host))].sort()).toEqual(['sgx', 'sgx_lc', 'shstk']);
});

test('a bit without a name is told by its place', () => {
  const host = new Cpuid([leaf(7, {})]);
  expect(new Cpuid([leaf(7, { ebx: 1 << 22 })]).missingOn(host)).toEqual(['leaf 0x7.0 ebx bit 22']);
});

test('MSRs have names', () => {
  expect([0xda0, 0x20b, 0x407, 0x4b56_4d03, 0x1234].map(msrName)).toEqual([
    'IA32_XSS (0xda0)',
    'IA32_MTRR_PHYSMASK5 (0x20b)',
    'IA32_MC1_MISC (0x407)',
    'KVM_STEAL_TIME (0x4b564d03)',
    '0x1234',
  ]);
});

testKvm('KVM takes the CPUID of the first level', () => {
  const kvm = Kvm.open();
  const vm = kvm.createVm();
  try {
    vm.createIrqchip();
    const vcpu = vm.createVcpu(0);
    try {
      const cpuid = cpuidOfModel('x86-64', kvm.supportedCpuid().with(1, 0, { ecx: 2 ** 31 }));
      vcpu.setCpuid(cpuid.forVcpu(0));
      expect(cpuid.missingOn(vcpu.cpuid())).toEqual([]);
      expect(typeof kvm.allowAmx()).toBe('boolean');
    } finally {
      vcpu.close();
    }
  } finally {
    vm.close();
    kvm.close();
  }
});
