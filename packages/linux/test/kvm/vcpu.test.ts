import { hostSupport, InterruptChip, installWakeSignal, Kvm, runVcpu, SliceTimer } from '@godwit/linux';
import { Cpuid, guestMsrs, KvmExit, KvmValue, Msr, VcpuState } from '@godwit/linux/kvm';
import { closeFd, Errno, eventfd, readFd } from '@godwit/linux/unstable';
import { afterEach, expect, test } from '@jest/globals';
import { errorOf } from '../error-of.js';
import { testWhen } from '../when-usable.js';
import { CODE_ADDRESS, RealModeGuest } from './real-mode-guest.js';

const testKvm = testWhen(hostSupport().kvm);

/** mov dx, 0x3f8; mov al, 'A'; out dx, al; in al, dx; hlt */
const PORT_IO = [0xba, 0xf8, 0x03, 0xb0, 0x41, 0xee, 0xec, 0xf4];
const AFTER_OUT = BigInt(CODE_ADDRESS + 6);
const AFTER_IN = BigInt(CODE_ADDRESS + 7);
/** inc eax; jmp -4 */
const SPIN = [0x66, 0x40, 0xeb, 0xfc];

const open: { close(): void }[] = [];
afterEach(() => {
  for (const thing of open.splice(0).reverse()) thing.close();
});

function guest(code: readonly number[]): RealModeGuest & { readonly kvm: Kvm } {
  const kvm = Kvm.open();
  open.push(kvm);
  const made = new RealModeGuest(kvm, code);
  open.push(made);
  return Object.assign(made, { kvm });
}

testKvm('a port access exits, and is completed by the next KVM_RUN even when that may not enter the guest', () => {
  const { vcpu } = guest(PORT_IO);
  const { run } = vcpu;
  expect(runVcpu(vcpu.fd)).toBe(0);
  expect(run.exitReason).toBe(KvmExit.KVM_EXIT_IO);
  expect([run.ioPort, run.ioSize, run.ioCount, run.ioDirection]).toEqual([0x3f8, 1, 1, KvmValue.KVM_EXIT_IO_OUT]);
  expect(run.bytes[run.ioDataOffset]).toBe(0x41);

  expect(runVcpu(vcpu.fd)).toBe(0);
  expect([run.exitReason, run.ioDirection]).toEqual([KvmExit.KVM_EXIT_IO, KvmValue.KVM_EXIT_IO_IN]);
  // The input has not happened yet, as far as the registers are concerned.
  expect(vcpu.generalRegisters().get('rip')).toBe(AFTER_OUT);
  run.bytes[run.ioDataOffset] = 0x77;
  run.immediateExit = true;
  expect(runVcpu(vcpu.fd)).toBe(-Errno.EINTR);
  expect(vcpu.generalRegisters().get('rip')).toBe(AFTER_IN);
  expect(vcpu.generalRegisters().get('rax')).toBe(0x77n);
});

testKvm('a write that is told by an event counter is no exit', () => {
  // mov ax, 0xffff; mov ds, ax; mov dword [0x1000], 7: beyond memory; with 8; then hlt
  const write = (value: number) => [0x66, 0xc7, 0x06, 0x00, 0x10, value, 0, 0, 0];
  const { vm, vcpu } = guest([0xb8, 0xff, 0xff, 0x8e, 0xd8, ...write(7), ...write(8), 0xf4]);
  if (!vm.hasEvents) return;
  const fd = eventfd();
  open.push({ close: () => closeFd(fd) });
  vm.notifyByEvent({ address: 0xffff0 + 0x1000, value: 7, fd });
  expect(runVcpu(vcpu.fd)).toBe(0);
  // The other value is an exit.
  expect([vcpu.run.exitReason, vcpu.run.mmioData[0]]).toEqual([KvmExit.KVM_EXIT_MMIO, 8]);
  const count = new Uint8Array(8);
  expect(readFd(fd, count)).toBe(8);
  expect(count[0]).toBe(1);
});

testKvm('immediateExit keeps a vCPU out of the guest without any signal: nothing to be lost', () => {
  const { vcpu } = guest(SPIN);
  vcpu.run.immediateExit = true;
  // This guest never exits by itself: entering it would hang here.
  for (let i = 0; i < 100; i++) expect(runVcpu(vcpu.fd)).toBe(-Errno.EINTR);
  expect(vcpu.generalRegisters().get('rax')).toBe(0n);
});

testKvm('a slice timer gets its own thread out of a guest that never exits', () => {
  const { vcpu } = guest(SPIN);
  installWakeSignal();
  const timer = new SliceTimer();
  open.push(timer);
  timer.tickEvery(5);
  expect(runVcpu(vcpu.fd)).toBe(-Errno.EINTR);
  expect(runVcpu(vcpu.fd)).toBe(-Errno.EINTR);
  expect(vcpu.generalRegisters().get('rax')).toBeGreaterThan(0n);
});

testKvm('every piece of state that KVM has is read from one vCPU and taken by another', () => {
  const [from, to] = [guest(PORT_IO), guest(PORT_IO)];
  runVcpu(from.vcpu.fd);
  from.vcpu.run.immediateExit = true;
  runVcpu(from.vcpu.fd);
  for (const part of Object.values(VcpuState)) {
    if (!from.vcpu.has(part)) continue;
    const bytes = from.vcpu.get(part);
    expect(bytes.byteLength).toBe(from.vcpu.sizeOf(part));
    to.vcpu.set(part, bytes);
    expect({ part: part.name, bytes: to.vcpu.get(part) }).toEqual({ part: part.name, bytes });
  }
  expect(to.vcpu.generalRegisters().get('rip')).toBe(AFTER_OUT);
});

testKvm('a piece of state of the wrong size is refused before the kernel sees it', async () => {
  const { vcpu } = guest(PORT_IO);
  const error = await errorOf(() => vcpu.set(VcpuState.localApic, new Uint8Array(1000)));
  expect(error.code).toBe('GODWIT_INVALID_ARGUMENT');
  expect(error.message).toContain('1024 bytes');
});

testKvm('chips, timer and clock go from one VM to another', () => {
  const [from, to] = [guest(PORT_IO), guest(PORT_IO)];
  for (const chip of Object.values(InterruptChip)) {
    const state = from.vm.getIrqchip(chip);
    to.vm.setIrqchip(state);
    expect(to.vm.getIrqchip(chip)).toEqual(state);
  }
  to.vm.setPit2(from.vm.getPit2());
  const hour = 3_600_000_000_000n;
  to.vm.setClock(hour);
  expect(to.vm.getClock()).toBeGreaterThanOrEqual(hour);
  expect(() => to.vm.setPit2(new Uint8Array(8))).toThrow(RangeError);
});

testKvm('MSRs are read in bulk past those that do not exist, and written back', async () => {
  const { kvm, vcpu } = guest(PORT_IO);
  const indices = kvm.msrIndices();
  const noMsr = 0x1234_5678;
  const values = vcpu.readMsrs([noMsr, ...indices.slice(0, 5), noMsr, ...indices.slice(5), noMsr]);
  expect(values.map(({ index }) => index)).toEqual(vcpu.readMsrs(indices).map(({ index }) => index));
  expect(values.length).toBeGreaterThan(10);
  vcpu.writeMsrs(values);
  const error = await errorOf(() => vcpu.writeMsrs([...values, { index: noMsr, value: 1n }]));
  expect(error.code).toBe('GODWIT_UNSUPPORTED');
  expect(error.message).toContain('0x12345678');
});

testKvm('a CPU is described by what CPUID says, and compared feature by feature', () => {
  const { kvm, vcpu } = guest(PORT_IO);
  const host = kvm.supportedCpuid();
  // Not compared with each other: some KVMs (PVM) let a guest see the host's own CPU, whatever they were told.
  const given = vcpu.cpuid();
  expect(given.missingOn(given)).toEqual([]);
  expect(host.missingOn(host)).toEqual([]);
  const poorer = host.entries.map((entry) =>
    entry.function === 1 ? { ...entry, edx: (entry.edx & ~1) >>> 0 } : entry,
  );

  expect(host.missingOn(new Cpuid(poorer))).toEqual(['fpu']);
});

test.each([
  [0x1, 'ecx', 1 << 27, 'OSXSAVE', 'pni'],
  [0x1, 'edx', 1 << 9, 'APIC', 'fpu'],
  [0x7, 'ecx', 1 << 4, 'OSPKE', 'prefetchwt1'],
] as const)(
  'what a guest has enabled is no feature that a host must have: leaf 0x%s %s 0x%s (%s)',
  (fn, register, bit, _name, lowest) => {
    const none = { function: fn, index: 0, flags: 0, eax: 0, ebx: 0, ecx: 0, edx: 0 };
    const host = new Cpuid([none]);
    expect(new Cpuid([{ ...none, [register]: bit }]).missingOn(host)).toEqual([]);
    const wanted = (bit | 1) >>> 0;
    expect(new Cpuid([{ ...none, [register]: wanted }]).missingOn(host)).toEqual([lowest]);
  },
);

testKvm('the difference between the time-stamp counters of two vCPUs is set exactly, or not at all', () => {
  const { vm, vcpu } = guest(PORT_IO);
  const second = vm.createVcpu(1);
  open.push(second);
  const first = vcpu.tscOffset();
  if (first === undefined) return;
  const ahead = BigInt.asUintN(64, first + 1_000_000n);
  second.setTscOffset(ahead);
  // Some KVMs (PVM) take the offset and go on without one, since the guest reads the host's own counter.
  expect([ahead, first]).toContain(second.tscOffset());
  expect(vcpu.tscOffset()).toBe(first);
});

testKvm('the MSRs of a vCPU are those that KVM lists, memory types and banks of machine checks', () => {
  const { kvm, vcpu } = guest(PORT_IO);
  const indices = guestMsrs(vcpu.fd, kvm.msrIndices());
  expect(new Set(indices).size).toBe(indices.length);
  expect(indices).toEqual(expect.arrayContaining([Msr.timeStampCounter, Msr.tscAdjust]));
  const has = (index: number): boolean => vcpu.readMsrs([index]).length > 0;
  for (const index of [0x2ff, 0x200, 0x26f, 0x400])
    expect([index, indices.includes(index)]).toEqual([index, has(index)]);
  vcpu.writeMsrs(vcpu.readMsrs(indices));
});

testKvm('a KVM without nested virtualization has no such state', () => {
  const { vcpu } = guest(PORT_IO);
  expect(vcpu.nestedState() === undefined).toBe(vcpu.nestedStateBytes === 0);
});
