import { type GuestProgram, Machine, type MachineEvent } from '@godwit/example-node-vmm';
import { IMAGE_ADDRESS } from '@godwit/example-node-vmm/guest';
import { afterEach, expect } from '@jest/globals';
import { filter, firstValueFrom } from 'rxjs';
import { moveGuest } from './cold-migration.js';
import { NO_KVM, testUnless } from './machine-kinds.js';

const testKvm = testUnless(NO_KVM);
const MEMORY_BYTES = 16 * 2 ** 20;

const machines: Machine[] = [];
afterEach(async () => {
  await Promise.all(machines.splice(0).map((machine) => machine.close()));
});

async function running(code: readonly number[], vcpus = 1): Promise<Machine> {
  const program: GuestProgram = { address: IMAGE_ADDRESS, bytes: Uint8Array.from(code) };
  const machine = await Machine.create({ memoryBytes: MEMORY_BYTES, vcpus, program });
  machines.push(machine);
  return machine;
}

/** mov edx, 0x3f8 */
const SERIAL = [0xba, 0xf8, 0x03, 0x00, 0x00];

/** Resolves when `enough` returns true for all text that was printed so far. */
function printed(machine: Machine, sink: { text: string }, enough: (text: string) => boolean): Promise<void> {
  return new Promise((resolve) => {
    machine.console.subscribe((piece) => {
      sink.text += piece;
      if (enough(sink.text)) resolve();
    });
  });
}

/** Whether text is the output of a program that counts through the 64 characters from `@` on. */
function isCount(text: string): boolean {
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) !== 0x40 + (i & 63)) return false;
  return true;
}

testKvm('output is neither lost nor repeated when a guest is moved in the middle of it', async () => {
  // How an access that has begun is completed is tested with the bindings, where KVM_RUN can be stepped.
  // xor ecx, ecx; next: mov eax, ecx; and al, 63; add al, '@'; out dx, al; inc ecx; jmp next
  const count = [...SERIAL, 0x31, 0xc9, 0x89, 0xc8, 0x24, 0x3f, 0x04, 0x40, 0xee, 0xff, 0xc1, 0xeb, 0xf5];
  const sink = { text: '' };
  let machine = await running(count);
  for (let hop = 0; hop < 5; hop++) {
    const already = sink.text.length;
    const more = printed(machine, sink, (text) => text.length > already + 200);
    await machine.resume();
    await more;
    await machine.pause();
    const next = await Machine.fromDescription(machine.description);
    machines.push(next);
    await moveGuest(machine, next);
    await machine.close();
    machine = next;
  }
  expect(sink.text.length).toBeGreaterThan(1000);
  expect(isCount(sink.text)).toBe(true);
});

testKvm('a string instruction is not cut by a pause', async () => {
  // The text is behind the code: 64 characters. again: mov esi, text; mov ecx, 64; rep outsb; jmp again
  const text = Array.from({ length: 64 }, (_, i) => 0x40 + i);
  const code = [...SERIAL, 0xbe, 0x13, 0x00, 0x10, 0x00, 0xb9, 0x40, 0x00, 0x00, 0x00, 0xf3, 0x6e, 0xeb, 0xf2];
  expect(code).toHaveLength(0x13);
  const machine = await running([...code, ...text]);
  const sink = { text: '' };
  const enough = printed(machine, sink, (all) => all.length > 20_000);
  await machine.resume();
  for (let i = 0; i < 200; i++) {
    await machine.pause();
    await machine.resume();
  }
  await enough;
  await machine.pause();
  expect(isCount(sink.text)).toBe(true);
});

testKvm('a guest that never exits is paused every time', async () => {
  // next: inc rcx; jmp next
  const machine = await running([0x48, 0xff, 0xc1, 0xeb, 0xfb], 2);
  for (let i = 0; i < 300; i++) {
    await machine.resume();
    await machine.pause();
  }
  expect(machine.state).toBe('paused');
});

testKvm('a halted vCPU is paused, moved and still halted', async () => {
  // hlt with interrupts off: the vCPU sleeps in KVM_RUN and does not wake up.
  const machine = await running([0xf4, 0xeb, 0xfd]);
  await machine.resume();
  await machine.pause();
  const next = await Machine.fromDescription(machine.description);
  machines.push(next);
  await moveGuest(machine, next);
  await next.resume();
  await next.pause();
  expect(next.state).toBe('paused');
});

testKvm('ports and addresses without a device are read as ones', async () => {
  // in eax, dx (0x80); mov rbx, [0x02000000], which is above RAM; and eax, ebx; and al, 0x5f; out dx, al; hlt
  const code = [
    ...[0x66, 0xba, 0x80, 0x00, 0xed],
    ...[0xb9, 0x00, 0x00, 0x00, 0x02, 0x48, 0x8b, 0x19],
    ...[0x21, 0xd8, 0x24, 0x5f],
    ...SERIAL,
    ...[0xee, 0xf4],
  ];
  const machine = await running(code);
  const sink = { text: '' };
  const done = printed(machine, sink, (text) => text.length === 1);
  await machine.resume();
  await done;
  expect(sink.text).toBe('_');
});

testKvm('a crash is reported with the registers, stops the other vCPUs and is final', async () => {
  // vCPU 0 (rsi) spins, vCPU 1: mov eax, 0x1234; ud2. There is no interrupt table, so that is a triple fault.
  const machine = await running([0x85, 0xf6, 0x74, 0xfe, 0xb8, 0x34, 0x12, 0x00, 0x00, 0x0f, 0x0b], 2);
  const crashed = firstValueFrom(
    machine.events.pipe(
      filter((event): event is Extract<MachineEvent, { type: 'crashed' }> => event.type === 'crashed'),
    ),
  );
  await machine.resume();
  const { error } = await crashed;
  expect(error.code).toBe('GODWIT_GUEST_CRASHED');
  expect(error.message).toMatch(/vCPU 1 cannot go on: KVM_EXIT_\w+.*rip=0x100009 .*rax=0x1234/);
  expect(machine.state).toBe('crashed');
  await machine.pause();
  await expect(machine.resume()).rejects.toBe(error);
  expect(machine.state).toBe('crashed');
});

testKvm('a guest that prints faster than the VMM reads loses no text', async () => {
  // mov esi, 0x200000; mov ecx, 100,000; rep outsb; hlt: the text is memory that the test has filled.
  const length = 100_000;
  const lengthBytes = [length & 0xff, (length >> 8) & 0xff, length >> 16, 0];
  const code = [...SERIAL, 0xbe, 0x00, 0x00, 0x20, 0x00, 0xb9, ...lengthBytes, 0xf3, 0x6e, 0xf4];
  const machine = await running(code);
  machine.ram.view(0x20_0000, length).forEach((_, i, all) => {
    all[i] = 0x40 + (i & 63);
  });
  const sink = { text: '' };
  const all = printed(machine, sink, (text) => text.length >= length);
  await machine.resume();
  await all;
  await machine.pause();
  expect(sink.text).toHaveLength(length);
  expect(isCount(sink.text)).toBe(true);
});
