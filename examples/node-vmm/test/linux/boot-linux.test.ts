import { Machine, type MachineEvent } from '@godwit/example-node-vmm';
import { afterEach, describe, expect, test } from '@jest/globals';
import { filter, firstValueFrom, ReplaySubject } from 'rxjs';
import { bootParams } from '../../dist/linux/boot-params.js';
import { memoryMap, planBoot } from '../../dist/linux/boot-plan.js';
import { readBzImage } from '../../dist/linux/bz-image.js';
import { readKernel } from '../../dist/linux/read-kernel.js';
import { startInfo } from '../../dist/linux/start-info.js';
import { ramBlocks } from '../../dist/machine/memory-map.js';
import { NO_KVM, testUnless } from '../machine-kinds.js';
import {
  POWER_OFF,
  printsCommandLine,
  RESET,
  TOY_ADDRESS,
  TOY_NEEDS,
  TOY_PVH,
  toyKernel,
  toyVmlinux,
} from './toy-kernel.js';

const testKvm = testUnless(NO_KVM);
const MIB = 2 ** 20;
const MEMORY_BYTES = 32 * MIB;
const refusal = (told: string) =>
  expect.objectContaining({ code: 'GODWIT_INVALID_ARGUMENT', message: expect.stringContaining(told) });

/** Memory as the plan sees it. */
const memoryOf = (bytes: number) => ({ blocks: ramBlocks(bytes) }) as unknown as Parameters<typeof memoryMap>[0];

describe('the plan of a boot', () => {
  const kernel = readBzImage(toyKernel([0xf4]));
  const view = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

  test('the kernel goes to its preferred address, and is entered 0x200 bytes behind it', () => {
    expect(kernel).toMatchObject({ entry: TOY_ADDRESS + 0x200, neededBytes: TOY_NEEDS, commandLineBytes: 2047 });
    expect(kernel.segments.map(({ address, bytes }) => [address, bytes.byteLength])).toEqual([[TOY_ADDRESS, 0x201]]);
    // From 0x1f1 to where the jump over the header leads.
    expect(kernel.setupHeader).toHaveLength(0x26c - 0x1f1);
  });

  test('the boot parameters have the header, the initrd at the end of low memory, the command line and the memory map', () => {
    const plan = planBoot(kernel, { kernel: new Uint8Array(), initrd: new Uint8Array(5000) }, memoryOf(MEMORY_BYTES));
    const page = view(bootParams(kernel.setupHeader ?? new Uint8Array(), plan));
    expect(plan.initrdAddress).toBe(MEMORY_BYTES - 8192);
    expect(page.getUint32(0x218, true)).toBe(plan.initrdAddress);
    expect(page.getUint32(0x21c, true)).toBe(5000);
    expect(page.getUint32(0x202, true)).toBe(0x5372_6448);
    expect(page.getUint8(0x210)).toBe(0xff);
    expect(page.getBigUint64(0x70, true)).toBe(0xe_0000n);
    expect(page.getUint8(0x1e8)).toBe(3);
    const entries = [0, 1, 2].map((i) => [
      page.getBigUint64(0x2d0 + 20 * i, true),
      page.getBigUint64(0x2d8 + 20 * i, true),
      page.getUint32(0x2e0 + 20 * i, true),
    ]);
    expect(entries).toEqual([
      [0n, 0x9_fc00n, 1],
      [0xe_0000n, 0x2_0000n, 2],
      [0x10_0000n, BigInt(MEMORY_BYTES - MIB), 1],
    ]);
  });

  test('memory above 4 GiB is in the map, behind the hole', () => {
    expect(memoryMap(memoryOf(4 * 2 ** 30)).at(-1)).toEqual({ address: 2 ** 32, byteLength: 2 ** 30, type: 1 });
  });

  test('refuses what does not fit', () => {
    const boot = { kernel: new Uint8Array() };
    expect(() => planBoot(kernel, boot, memoryOf(16 * MIB))).toThrow(refusal(`${TOY_ADDRESS + TOY_NEEDS}`));
    const initrd = new Uint8Array(15 * MIB + 1);
    expect(() => planBoot(kernel, { ...boot, initrd }, memoryOf(MEMORY_BYTES))).toThrow(refusal('initrd'));
    const long = { ...boot, commandLine: 'x'.repeat(2048) };
    expect(() => planBoot(kernel, long, memoryOf(MEMORY_BYTES))).toThrow(refusal('2047 bytes'));
    const zero = { ...boot, commandLine: 'a\0b' };
    expect(() => planBoot(kernel, zero, memoryOf(MEMORY_BYTES))).toThrow(refusal('without a zero'));
  });

  test.each([
    ['nothing', new Uint8Array(0x100), '256 bytes'],
    ['another file', new Uint8Array(8192), 'HdrS'],
    ['an old kernel', toyKernel([0xf4], 0x020b), '0x20b'],
    ['one that is cut off', toyKernel([0xf4]).subarray(0, 1024), 'setup code'],
  ])('refuses %s as a kernel', (_, file, told) => {
    expect(() => readBzImage(file)).toThrow(refusal(told));
  });

  test('a vmlinux goes where its program headers say, and is entered where its note says', () => {
    const image = readKernel(toyVmlinux([0xf4]));
    expect(image).toMatchObject({ entry: TOY_ADDRESS + 0x10, neededBytes: TOY_NEEDS });
    expect(image.setupHeader).toBeUndefined();
    expect(image.segments.map(({ address, bytes }) => [address, bytes.byteLength])).toEqual([[TOY_ADDRESS, 0x11]]);
  });

  test('a PVH kernel is told of its initrd, its command line, the ACPI tables and the memory map', () => {
    const initrd = new Uint8Array(5000);
    const plan = planBoot(readKernel(toyVmlinux([0xf4])), { kernel: new Uint8Array(), initrd }, memoryOf(MEMORY_BYTES));
    const page = view(startInfo(plan));
    const addresses = [16, 24, 32, 40].map((at) => Number(page.getBigUint64(at, true)));
    expect([page.getUint32(0, true), page.getUint32(4, true), page.getUint32(12, true)]).toEqual([0x336e_c578, 1, 1]);
    expect(addresses).toEqual([0x7040, 0x9000, 0xe_0000, 0x7080]);
    expect([page.getBigUint64(0x40, true), page.getBigUint64(0x48, true)]).toEqual([
      BigInt(MEMORY_BYTES - 8192),
      5000n,
    ]);
    expect(page.getUint32(48, true)).toBe(3);
    const last = 0x80 + 2 * 24;
    expect([page.getBigUint64(last, true), page.getUint32(last + 16, true)]).toEqual([0x10_0000n, 1]);
  });

  const broken = (change: (file: Uint8Array, view: DataView) => void): Uint8Array => {
    const file = toyVmlinux([0xf4]);
    change(file, view(file));
    return file;
  };
  test.each([
    ['without the note', broken((_, file) => file.setUint32(TOY_PVH.note + 8, 1, true)), 'CONFIG_PVH'],
    ['of 32 bits', broken((file) => file.fill(1, 4, 5)), 'ELF-64'],
    ['of another processor', broken((_, file) => file.setUint16(18, 183, true)), 'x86-64'],
    ['that is cut off', toyVmlinux([0xf4]).subarray(0, TOY_PVH.code), 'segment 0 is cut off'],
    ['with notes that are cut off', broken((_, file) => file.setUint32(TOY_PVH.note + 4, 999, true)), 'notes'],
    ['with program headers elsewhere', broken((_, file) => file.setBigUint64(32, 99_999n, true)), 'program headers'],
  ])('refuses a vmlinux %s', (_, file, told) => {
    expect(() => readKernel(file)).toThrow(refusal(told));
  });

  test('refuses a kernel without a 64-bit entry', () => {
    const file = toyKernel([0xf4]);
    file[0x236] = 0;
    expect(() => readBzImage(file)).toThrow(refusal('64-bit'));
  });
});

const machines: Machine[] = [];
afterEach(async () => {
  await Promise.all(machines.splice(0).map((machine) => machine.close()));
});

/** A machine with a kernel, all that it prints, and its events. */
async function booted(kernel: Uint8Array, commandLine: string) {
  const machine = await Machine.create({ memoryBytes: MEMORY_BYTES, vcpus: 1, linux: { kernel, commandLine } });
  machines.push(machine);
  const sink = { text: '' };
  machine.console.subscribe((text) => {
    sink.text += text;
  });
  const events = new ReplaySubject<MachineEvent>();
  machine.events.subscribe(events);
  return { machine, sink, events };
}

const ending = (events: ReplaySubject<MachineEvent>) =>
  firstValueFrom(events.pipe(filter(({ type }) => type === 'ended' || type === 'crashed')));

for (const { what, end, code } of [
  { what: 'shuts itself down', end: 'shutdown', code: POWER_OFF },
  { what: 'resets the machine', end: 'reset', code: RESET },
]) {
  testKvm(`a kernel gets its boot parameters and its command line; one that ${what} ends`, async () => {
    const { machine, sink, events } = await booted(toyKernel(printsCommandLine(code)), 'console=ttyS0 answer=42');
    await machine.resume();
    expect(await ending(events)).toMatchObject({ type: 'ended', end, error: { code: 'GODWIT_GUEST_ENDED' } });
    await machine.pause();
    expect(sink.text).toBe('console=ttyS0 answer=42');
    expect(machine.state).toBe('ended');
    expect(machine.runState()).toBe('ended');
    await expect(machine.resume()).rejects.toMatchObject({ code: 'GODWIT_GUEST_ENDED' });
  });
}

testKvm('a vmlinux is entered in 32-bit mode, with the address of what it is told', async () => {
  // mov ebx, [ebx + 24]; next: mov al, [ebx]; test al, al; jz rest; mov edx, 0x3f8; out dx, al; inc ebx; jmp next; rest:
  const prints = [
    ...[0x8b, 0x5b, 0x18, 0x8a, 0x03, 0x84, 0xc0, 0x74, 0x09],
    ...[0xba, 0xf8, 0x03, 0x00, 0x00, 0xee, 0x43, 0xeb, 0xf1],
  ];
  const { machine, sink, events } = await booted(toyVmlinux([...prints, ...POWER_OFF]), 'by PVH');
  await machine.resume();
  expect(await ending(events)).toMatchObject({ type: 'ended', end: 'shutdown' });
  await machine.pause();
  expect(sink.text).toBe('by PVH');
});

testKvm('a machine for a Linux has no mailbox, and says what it was booted from', async () => {
  const { machine } = await booted(toyKernel([0xf4]), '');
  expect(machine.description).toMatchObject({ kind: 'kvm', memoryBytes: MEMORY_BYTES, vcpus: 1, boot: 'linux' });
  expect(machine.trackers.map(({ name }) => name)).toEqual(['kvm']);
  const devices = ['chipset', 'vcpu0', 'serial', 'pause-clock', 'power', 'cmos', 'generation'];
  expect(machine.devices.map(({ id }) => id)).toEqual(devices);
});
