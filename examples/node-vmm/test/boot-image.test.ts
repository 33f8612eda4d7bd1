import { Machine } from '@godwit/example-node-vmm';
import {
  checkSweep,
  describeSweep,
  SWEEP_DONE,
  SWEEP_LETTER,
  type Sweep,
  sweepImage,
  sweptBytes,
} from '@godwit/example-node-vmm/guest';
import { afterEach, expect, test } from '@jest/globals';
import { filter, firstValueFrom } from 'rxjs';
import { moveGuest } from './cold-migration.js';
import { NO_KVM, testUnless } from './machine-kinds.js';

const testKvm = testUnless(NO_KVM);
const MIB = 2 ** 20;
const MEMORY_BYTES = 16 * MIB;
/** Few enough pages for 64 passes to take a second on a KVM that emulates. */
const SWEEP: Sweep = { first: MIB, end: 12 * MIB };

const machines: Machine[] = [];
afterEach(async () => {
  await Promise.all(machines.splice(0).map((machine) => machine.close()));
});

async function booted(bootImage: Uint8Array): Promise<Machine> {
  const machine = await Machine.create({ memoryBytes: MEMORY_BYTES, vcpus: 1, bootImage });
  machines.push(machine);
  return machine;
}

function printed(machine: Machine, letter: string): Promise<string> {
  return firstValueFrom(machine.console.pipe(filter((text) => text.includes(letter))));
}

/** Checks the sweep of a paused machine; returns the report as one line. */
const check = (machine: Machine): string => describeSweep(checkSweep(sweptBytes(machine.ram, SWEEP)));

testKvm('the sweep guest boots in real mode, sweeps, and its memory is right whenever it is paused', async () => {
  const machine = await booted(sweepImage(SWEEP));
  const letter = printed(machine, SWEEP_LETTER);
  await machine.resume();
  await letter;
  const fronts = new Set<number>();
  // A vCPU that gets no processor between two pauses is paused again at the same place.
  for (let i = 0; i < 20 || fronts.size < 2; i++) {
    await machine.pause();
    expect(check(machine)).toMatch(/^2816 pages right/);
    fronts.add(checkSweep(sweptBytes(machine.ram, SWEEP)).front);
    await machine.resume();
  }
  await machine.pause();
  // The check finds one page that is an increment behind.
  const page = machine.ram.view(MIB + 100 * 4096, 1);
  page[0] = (page[0] as number) - 1;
  expect(check(machine)).toMatch(/^1 of 2816 pages wrong: page 100/);
});

testKvm('the sweep continues where it was after a move to another machine', async () => {
  const machine = await booted(sweepImage(SWEEP));
  const first = printed(machine, SWEEP_LETTER);
  await machine.resume();
  await first;
  await machine.pause();
  expect(machine.description).toMatchObject({ boot: 'image' });
  const next = await Machine.fromDescription(machine.description);
  machines.push(next);
  await moveGuest(machine, next);
  const second = printed(next, SWEEP_LETTER);
  await next.resume();
  await second;
  await next.pause();
  expect(check(next)).toMatch(/^2816 pages right/);
});

testKvm('the sweep guest halts after its passes; memory that neither it nor the VMM writes is zero', async () => {
  const machine = await booted(sweepImage({ ...SWEEP, passes: 3 }));
  const done = printed(machine, SWEEP_DONE);
  await machine.resume();
  expect(await done).toBe(SWEEP_DONE);
  await machine.pause();
  expect(new Set(sweptBytes(machine.ram, SWEEP))).toEqual(new Set([3]));
  // Without a mailbox the VMM writes nothing to low memory.
  expect(machine.ram.view(0x1000, 0x6000).every((byte) => byte === 0)).toBe(true);
  expect(machine.trackers.map(({ name }) => name)).toEqual(['kvm']);
});

testKvm('an image longer than a sector is loaded as a whole', async () => {
  // mov dx, 0x3f8; mov al, [0x7c00 + 599,999]; out dx, al; hlt: the last byte is beyond the first 64 KiB.
  const bytes = new Uint8Array(600_000);
  // mov ax, 0x9000; mov ds, ax; then ds:offset of the byte.
  const address = 0x7c00 + bytes.length - 1;
  const offset = address - 0x9_0000;
  bytes.set([0xb8, 0x00, 0x90, 0x8e, 0xd8, 0xa0, offset & 0xff, offset >> 8, 0xba, 0xf8, 0x03, 0xee, 0xf4]);
  bytes[bytes.length - 1] = 'Z'.charCodeAt(0);
  const machine = await booted(bytes);
  const letter = printed(machine, 'Z');
  await machine.resume();
  expect(await letter).toBe('Z');
});

const refusal = { code: 'GODWIT_INVALID_ARGUMENT' };
test.each([
  ['no image', new Uint8Array(), 1, '0'],
  ['one beyond conventional memory', new Uint8Array(0xa_0000 - 0x7c00 + 1), 1, '623617'],
  ['two vCPUs', sweepImage(), 2, 'got 2'],
])('refuses %s', async (_, bootImage, vcpus, told) => {
  const made = Machine.create({ memoryBytes: MEMORY_BYTES, vcpus, bootImage });
  await expect(made).rejects.toMatchObject({ ...refusal, message: expect.stringContaining(told) });
});

test('refuses a description with another kind of boot', async () => {
  const made = Machine.fromDescription({ kind: 'kvm', memoryBytes: MEMORY_BYTES, vcpus: 1, boot: 'disk' });
  await expect(made).rejects.toMatchObject({ ...refusal, message: expect.stringContaining('"boot":"disk"') });
});
