import { Machine, type MachineConfig } from '@godwit/example-node-vmm';
import { Kvm } from '@godwit/linux';
import { Cpuid } from '@godwit/linux/kvm';
import { expect, test } from '@jest/globals';
import { type CpuDescription, parseCpu } from '../dist/vcpu/cpu-description.js';
import { moveGuest } from './cold-migration.js';
import { closedAfterEach } from './kept-machines.js';
import { NO_KVM, testUnless } from './machine-kinds.js';
import { ObservedGuest } from './observed-guest.js';

const testKvm = testUnless(NO_KVM);
const MIB = 2 ** 20;
const SMALL: MachineConfig = {
  memoryBytes: 32 * MIB,
  vcpus: 2,
  workload: { workingSetBytes: MIB, pagesPerSecond: 4000, heartbeatMicroseconds: 10_000 },
};
const [FUNCTION, INDEX, , , EBX] = [0, 1, 2, 3, 4];

const kept = closedAfterEach();

function cpuOf({ description }: Machine): CpuDescription {
  if (description.cpu === undefined) throw new Error('a machine on KVM tells of its processor');
  return description.cpu;
}

/** The description of a machine whose processor is another one. */
function withCpu(machine: Machine, change: Partial<CpuDescription>): unknown {
  return JSON.parse(JSON.stringify({ ...machine.description, cpu: { ...cpuOf(machine), ...change } }));
}

testKvm('a machine tells which processor its guest sees, and the next one tells the same', async () => {
  const machine = kept(await Machine.create({ ...SMALL, cpu: 'x86-64' }));
  const cpu = cpuOf(machine);
  expect(cpu.model).toBe('x86-64');
  expect(cpu.msrs.length).toBeGreaterThan(20);
  const next = kept(await Machine.fromDescription(JSON.parse(JSON.stringify(machine.description))));
  expect(next.description).toEqual(machine.description);
});

testKvm('a guest with a CPU model moves, and moves on', async () => {
  const guest = new ObservedGuest();
  let machine = kept(await Machine.create({ ...SMALL, cpu: 'x86-64' }));
  guest.follow(machine);
  await machine.resume();
  for (let hop = 0; hop < 3; hop++) {
    await guest.moreBeats(2);
    await machine.pause();
    const next = kept(await Machine.fromDescription(machine.description));
    await next.prepared();
    await moveGuest(machine, next);
    await machine.close();
    machine = next;
    guest.follow(machine);
    await machine.resume();
  }
  await guest.moreBeats(2);
  await machine.pause();
  expect(guest.problems).toEqual([]);
  guest.checkMemory(machine);
});

testKvm('a feature that this host lacks is refused by its name, before a machine is made', async () => {
  const machine = kept(await Machine.create(SMALL));
  const { cpuid } = cpuOf(machine);
  // Bit 22 of leaf 7, ebx, is no feature of any processor; bit 16 is AVX-512, which this host may have.
  const told = cpuid.map((entry) =>
    entry[FUNCTION] === 7 && entry[INDEX] === 0
      ? entry.map((word, i) => (i === EBX ? (word | (1 << 16) | (1 << 22)) >>> 0 : word))
      : entry,
  );
  await expect(Machine.fromDescription(withCpu(machine, { cpuid: told }))).rejects.toMatchObject({
    code: 'GODWIT_UNSUPPORTED',
    message: expect.stringMatching(/lacks: (avx512f, )?leaf 0x7.0 ebx bit 22.*--cpu host, x86-64/),
  });
});

testKvm("an MSR that this host's KVM does not name is refused by its name", async () => {
  const machine = kept(await Machine.create(SMALL));
  const msrs = [...cpuOf(machine).msrs, 0x4000_0001, 0x1234_5678];
  await expect(Machine.fromDescription(withCpu(machine, { msrs }))).rejects.toMatchObject({
    code: 'GODWIT_UNSUPPORTED',
    message: expect.stringMatching(/does not name: (HV_HYPERCALL \(0x40000001\), )?0x12345678\. .*kernel/),
  });
});

testKvm('a frequency that KVM cannot make is refused', async () => {
  const machine = kept(await Machine.create(SMALL));
  const { tscKhz } = cpuOf(machine);
  const description = withCpu(machine, { tscKhz: Math.max(1, Math.floor(tscKhz / 3)) });
  const kvm = Kvm.open();
  const KVM_CAP_TSC_CONTROL = 60;
  const scales = kvm.checkExtension(KVM_CAP_TSC_CONTROL) > 0;
  kvm.close();
  const made = Machine.fromDescription(description);
  if (scales) kept(await made);
  else {
    await expect(made).rejects.toMatchObject({
      code: 'GODWIT_UNSUPPORTED',
      message: expect.stringContaining(`this host's at ${tscKhz}`),
    });
  }
});

testKvm('a model that this host does not have is refused with the features', async () => {
  const kvm = Kvm.open();
  const offered = kvm.supportedCpuid();
  kvm.close();
  const popcnt = new Cpuid([{ function: 1, index: 0, flags: 0, eax: 0, ebx: 0, ecx: 1 << 23, edx: 0 }]);
  const lacks = popcnt.missingOn(offered).length > 0;
  const making = Machine.create({ ...SMALL, cpu: 'x86-64-v2' });
  if (!lacks) kept(await making);
  else {
    await expect(making).rejects.toMatchObject({
      code: 'GODWIT_UNSUPPORTED',
      message: expect.stringMatching(/the CPU model x86-64-v2 has .*popcnt.*choose a model/),
    });
  }
});

test('a processor in a description is checked', () => {
  const cpu = { model: 'host', cpuid: [[0, 0, 0, 1, 2, 3, 4]], msrs: [16], tscKhz: 0 };
  expect(parseCpu(undefined)).toBeUndefined();
  expect(parseCpu({ ...cpu, extra: 1 })).toEqual(cpu);
  for (const wrong of [
    null,
    {},
    { ...cpu, model: 'best' },
    { ...cpu, cpuid: [] },
    { ...cpu, cpuid: [[1, 2]] },
    { ...cpu, cpuid: [[0, 0, 0, -1, 2, 3, 4]] },
    { ...cpu, cpuid: Array.from({ length: 257 }, () => [0, 0, 0, 1, 2, 3, 4]) },
    { ...cpu, msrs: ['16'] },
    { ...cpu, msrs: Array.from({ length: 1025 }, () => 1) },
    { ...cpu, tscKhz: 1.5 },
  ]) {
    expect(() => parseCpu(wrong)).toThrow(expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT' }));
  }
});
