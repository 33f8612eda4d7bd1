import { Machine } from '@godwit/example-node-vmm';
import { expect } from '@jest/globals';
import { GENERATION_ADDRESS } from '../../dist/devices/generation-id.js';
import { moveGuest } from '../cold-migration.js';
import { closedAfterEach } from '../kept-machines.js';
import { NO_KVM, testUnless } from '../machine-kinds.js';
import { POWER_OFF, toyKernel } from './toy-kernel.js';

/** What a machine for a Linux has beside processors and virtio devices, as a small guest on KVM sees it. */

const testKvm = testUnless(NO_KVM);
const MEMORY_BYTES = 32 * 2 ** 20;
const kept = closedAfterEach();

async function booted(code: readonly number[], vcpus = 1): Promise<Machine> {
  return kept(await Machine.create({ memoryBytes: MEMORY_BYTES, vcpus, linux: { kernel: toyKernel(code) } }));
}

/** Resolves with what the guest has printed once it ends with `end`. */
function printed(machine: Machine, end: string): Promise<string> {
  let all = '';
  return new Promise((resolve) => {
    machine.console.subscribe((piece) => {
      all += piece;
      if (all.endsWith(end)) resolve(all);
    });
  });
}

const identifierOf = (machine: Machine) => Buffer.from(machine.ram.view(GENERATION_ADDRESS, 16)).toString('hex');

/**
 * Lets the interrupts 10 and 11 through the IOAPIC to vCPU 0, each as a vector of its own, with no local interrupt enabled; waits for
 * either in the request register of its local APIC, and prints "g" for the generation, "p" for the power button.
 *
 * The guest's page tables end with its RAM, so that the test maps the registers.
 */
const IOAPIC = 0xfec0_0000;
const LOCAL_APIC = 0xfee0_0000;
const VECTOR = { generation: 0x41, button: 0x42 } as const;

function dword(value: number): number[] {
  return [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
}

/** mov ebx, address; mov dword [rbx], value */
function store(address: number, value: number): number[] {
  return [0xbb, ...dword(address), 0xc7, 0x03, ...dword(value)];
}

function redirect(pin: number, vector: number): number[] {
  return [
    ...store(IOAPIC, 0x10 + 2 * pin),
    ...store(IOAPIC + 0x10, vector),
    ...store(IOAPIC, 0x11 + 2 * pin),
    ...store(IOAPIC + 0x10, 0),
  ];
}

/** The local APIC's software enable; then the loop over the requests of vectors 0x40 to 0x5f. */
const WATCHES = [
  ...redirect(10, VECTOR.generation),
  ...redirect(11, VECTOR.button),
  ...store(LOCAL_APIC + 0xf0, 0x1ff),
  // mov al, '.'; mov edx, 0x3f8; out dx, al
  ...[0xb0, 0x2e, 0xba, ...dword(0x3f8), 0xee],
  // mov ebx, request register; xor ecx, ecx
  ...[0xbb, ...dword(LOCAL_APIC + 0x220), 0x31, 0xc9],
  // next: mov eax, [rbx]; and eax, 6; cmp eax, ecx; je next
  ...[0x8b, 0x03, 0x83, 0xe0, 0x06, 0x39, 0xc8, 0x74, 0xf7],
  // mov esi, eax; xor eax, ecx; mov ecx, esi; test al, 2; mov al, 'g'; jnz print; mov al, 'p'; print: out dx, al; jmp next
  ...[0x89, 0xc6, 0x31, 0xc8, 0x89, 0xf1, 0xa8, 0x02, 0xb0, 0x67, 0x75, 0x02, 0xb0, 0x70, 0xee, 0xeb, 0xe6],
];

/** Maps the 2 MiB around the registers of both controllers to themselves: see `writeIdentityMap`. */
function mapControllers(machine: Machine): void {
  const [directoryPointers, directory] = [0x2_1000, 0x2_3000];
  const set = (address: number, value: number): void => {
    const bytes = machine.ram.view(address, 8);
    new DataView(bytes.buffer, bytes.byteOffset).setBigUint64(0, BigInt(value), true);
  };
  set(directoryPointers + 3 * 8, directory | 0x23);
  for (const address of [IOAPIC, LOCAL_APIC]) set(directory + ((address >>> 21) & 511) * 8, address + 0xe3);
}

async function watching(): Promise<Machine> {
  const machine = await booted(WATCHES);
  mapControllers(machine);
  const ready = printed(machine, '.');
  await machine.resume();
  await ready;
  return machine;
}

async function arrived(from: Machine, restored: boolean): Promise<Machine> {
  const next = kept(await Machine.fromDescription(from.description, { restored }));
  await moveGuest(from, next);
  return next;
}

testKvm('a guest that moves keeps its generation; one of a snapshot gets another, and is told, each time', async () => {
  const source = await watching();
  await source.pause();
  const first = identifierOf(source);
  expect(first).not.toBe('0'.repeat(32));
  expect(Buffer.from(source.generation ?? []).toString('hex')).toBe(first);
  const seen = new Set([first]);
  for (let restore = 0; restore < 2; restore++) {
    const copy = await arrived(source, true);
    // Nothing has changed before it runs.
    expect(identifierOf(copy)).toBe(first);
    const told = printed(copy, 'g');
    await copy.resume();
    expect(await told).toBe('g');
    await copy.pause();
    seen.add(identifierOf(copy));
    // Only the first run is one of a snapshot.
    const now = identifierOf(copy);
    await copy.resume();
    await copy.pause();
    expect(identifierOf(copy)).toBe(now);
  }
  expect(seen.size).toBe(3);
  const moved = await arrived(source, false);
  const pressed = printed(moved, 'p');
  await moved.resume();
  moved.pressPowerButton();
  // The guest was told of nothing before the button.
  expect(await pressed).toBe('p');
  expect(identifierOf(moved)).toBe(first);
});

testKvm('the generation of a guest that was restored goes on with it', async () => {
  const source = await watching();
  await source.pause();
  const copy = await arrived(source, true);
  await copy.resume();
  await copy.pause();
  const moved = await arrived(copy, false);
  expect(moved.generation).toEqual(copy.generation);
  expect(identifierOf(moved)).toBe(identifierOf(copy));
});

testKvm('the power button is for a guest that runs, and has one', async () => {
  const machine = await watching();
  const pressed = printed(machine, 'p');
  machine.pressPowerButton();
  await pressed;
  await machine.pause();
  expect(() => machine.pressPowerButton()).toThrow(expect.objectContaining({ code: 'GODWIT_INVALID_STATE' }));
  const bundled = kept(await Machine.create({ memoryBytes: MEMORY_BYTES, vcpus: 1 }));
  expect(() => bundled.pressPowerButton()).toThrow(expect.objectContaining({ code: 'GODWIT_UNSUPPORTED' }));
  expect(bundled.generation).toBeUndefined();
});

testKvm('a guest reads the clock of a PC', async () => {
  // mov al, 0x32; out 0x70, al; in al, 0x71; mov edx, 0x3f8; out dx, al: the century; then off.
  const machine = await booted([0xb0, 0x32, 0xe6, 0x70, 0xe4, 0x71, 0xba, ...dword(0x3f8), 0xee, ...POWER_OFF]);
  const century = printed(machine, '\x20');
  await machine.resume();
  expect(await century).toBe('\x20');
});

/** Where the other processors begin, in real mode, and where they count themselves. */
const TRAMPOLINE = 0x5000;
const COUNTER = 0x6000;
const VCPUS = 64;

testKvm(
  '64 vCPUs on the processors of this host: all are started by the guest, run, and move',
  async () => {
    // mov al, '.'; the start-up interrupts to all but itself; then: mov ax, [COUNTER]; cmp ax, 63; jne; print; again for 126; print; halt
    const waitFor = (count: number): number[] => [
      ...[0x66, 0x8b, 0x04, 0x25, ...dword(COUNTER), 0x66, 0x3d, count & 0xff, count >> 8, 0x75, 0xf2],
      ...[0xb0, 0x2e, 0xba, ...dword(0x3f8), 0xee],
    ];
    const machine = await booted(
      [
        ...store(LOCAL_APIC + 0xf0, 0x1ff),
        ...store(LOCAL_APIC + 0x300, 0xc4500),
        ...store(LOCAL_APIC + 0x300, 0xc4600 | (TRAMPOLINE >> 12)),
        ...waitFor(VCPUS - 1),
        ...waitFor(2 * (VCPUS - 1)),
        0xf4,
      ],
      VCPUS,
    );
    mapControllers(machine);
    // lock inc word [COUNTER]; then again once the go-ahead at COUNTER + 2 is there: cmp word [COUNTER + 2], 0; je; lock inc; hlt
    const [low, high] = [COUNTER & 0xff, COUNTER >> 8];
    machine.ram
      .view(TRAMPOLINE, 18)
      .set([
        ...[0xf0, 0xff, 0x06, low, high],
        ...[0x83, 0x3e, low + 2, high, 0x00, 0x74, 0xf9],
        ...[0xf0, 0xff, 0x06, low, high],
        0xf4,
      ]);
    const started = printed(machine, '.');
    await machine.resume();
    await started;
    await machine.pause();
    const next = await arrived(machine, false);
    await machine.close();
    expect(next.devices.filter(({ id }) => id.startsWith('vcpu'))).toHaveLength(VCPUS);
    next.ram.view(COUNTER + 2, 1)[0] = 1;
    const counted = printed(next, '.');
    await next.resume();
    await counted;
    await next.pause();
    const bytes = next.ram.view(COUNTER, 2);
    expect(new DataView(bytes.buffer, bytes.byteOffset).getUint16(0, true)).toBe(2 * (VCPUS - 1));
  },
  300_000,
);
