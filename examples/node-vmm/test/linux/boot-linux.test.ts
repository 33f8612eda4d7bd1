import { Machine, type MachineEvent } from '@godwit/example-node-vmm';
import { afterEach, describe, expect, test } from '@jest/globals';
import { filter, firstValueFrom, ReplaySubject } from 'rxjs';
import { memoryMap, planBoot } from '../../dist/linux/boot-linux.js';
import { readBzImage } from '../../dist/linux/kernel-image.js';
import { ramBlocks } from '../../dist/machine/memory-map.js';
import { NO_KVM, testUnless } from '../machine-kinds.js';
import { POWER_OFF, printsCommandLine, RESET, TOY_ADDRESS, TOY_NEEDS, toyKernel } from './toy-kernel.js';

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
    const page = view(plan.bootParams);
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

/** A machine with a kernel of these instructions, all that it prints, and its events. */
async function booted(code: readonly number[], commandLine: string) {
  const machine = await Machine.create({
    ...{ memoryBytes: MEMORY_BYTES, vcpus: 1 },
    linux: { kernel: toyKernel(code), commandLine },
  });
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
    const { machine, sink, events } = await booted(printsCommandLine(code), 'console=ttyS0 answer=42');
    await machine.resume();
    expect(await ending(events)).toMatchObject({ type: 'ended', end, error: { code: 'GODWIT_GUEST_ENDED' } });
    await machine.pause();
    expect(sink.text).toBe('console=ttyS0 answer=42');
    expect(machine.state).toBe('ended');
    expect(machine.runState()).toBe('ended');
    await expect(machine.resume()).rejects.toMatchObject({ code: 'GODWIT_GUEST_ENDED' });
  });
}

testKvm('a machine for a Linux has no mailbox, and says what it was booted from', async () => {
  const { machine } = await booted([0xf4], '');
  expect(machine.description).toEqual({ kind: 'kvm', memoryBytes: MEMORY_BYTES, vcpus: 1, boot: 'linux' });
  expect(machine.trackers.map(({ name }) => name)).toEqual(['kvm']);
  expect(machine.devices.map(({ id }) => id)).toEqual(['chipset', 'vcpu0', 'serial', 'pause-clock', 'power']);
});
