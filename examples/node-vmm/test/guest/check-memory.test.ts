import {
  CONTROL,
  checkMemory,
  controlAddress,
  describeDefect,
  guestImage,
  IMAGE_ADDRESS,
  MAILBOX_ADDRESS,
  ownedPageAddress,
  PAGE_SIZE,
  STAMP_SPACING,
  writePage,
} from '@godwit/example-node-vmm/guest';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { SoftwareMachine } from './software-machine.js';

function pausedMachine(wholePages = false): SoftwareMachine {
  const machine = new SoftwareMachine({ wholePages });
  machine.run(6);
  return machine;
}

function words(machine: SoftwareMachine, address: number): Uint32Array {
  const bytes = machine.ram.view(address, PAGE_SIZE);
  return new Uint32Array(bytes.buffer, bytes.byteOffset, PAGE_SIZE / 4);
}

/** Puts the first `quadwords` stores of a page's next write into memory, as a pause in its middle leaves them. */
function writePartly(machine: SoftwareMachine, vcpu: number, index: number, quadwords: number): number {
  const address = ownedPageAddress(machine.params, vcpu, index);
  const generation = (words(machine, machine.params.tables[vcpu] ?? 0)[index] ?? 0) + 1;
  const next = words(machine, address).slice();
  writePage(next, 0, { page: address / PAGE_SIZE, generation, writer: vcpu }, machine.params.wholePages);
  const order: number[] = [];
  for (let word = 0; word < PAGE_SIZE / 4; word += 2) {
    if (machine.params.wholePages || word % (STAMP_SPACING / 4) < 4) order.push(word);
  }
  const target = words(machine, address);
  for (const word of order.slice(0, quadwords)) {
    target[word] = next[word] ?? 0;
    target[word + 1] = next[word + 1] ?? 0;
  }
  return address;
}

function setInFlight(machine: SoftwareMachine, vcpu: number, address: number): void {
  const control = words(machine, controlAddress(vcpu));
  control[CONTROL.IN_FLIGHT / 4] = address >>> 0;
  control[CONTROL.IN_FLIGHT / 4 + 1] = Math.floor(address / 2 ** 32);
}

describe('check of a paused guest', () => {
  test.each([false, true])('a change of any stamp byte of any page is noticed, whole pages %s', (wholePages) => {
    const machine = pausedMachine(wholePages);
    const pages = fc.tuple(fc.integer({ min: 0, max: 1 }), fc.integer({ min: 0, max: 49 }));
    const places = wholePages
      ? fc.integer({ min: 0, max: PAGE_SIZE - 1 })
      : fc
          .tuple(fc.integer({ min: 0, max: 5 }), fc.integer({ min: 0, max: 15 }))
          .map(([i, b]) => i * STAMP_SPACING + b);
    fc.assert(
      fc.property(pages, places, fc.integer({ min: 1, max: 255 }), ([vcpu, index], offset, flip) => {
        const address = ownedPageAddress(machine.params, vcpu, index);
        const byte = machine.ram.view(address + offset, 1);
        const before = byte[0] ?? 0;
        byte[0] = before ^ flip;
        const { defects } = checkMemory(machine.ram, machine.params);
        byte[0] = before;
        expect(defects).toMatchObject([{ kind: 'torn', guestPhysicalAddress: address, vcpu, noticedBy: 'checker' }]);
      }),
    );
    expect(checkMemory(machine.ram, machine.params).defects).toEqual([]);
  });

  test.each([
    [false, 12],
    [true, 512],
  ])('a page being written when the guest was paused is no defect, at any store; whole pages %s', (whole, stores) => {
    const machine = pausedMachine(whole);
    const paused = machine.ram;
    for (let done = 0; done <= stores; done += whole ? 37 : 1) {
      machine.ram = paused.clone();
      const address = writePartly(machine, 1, 20, done);
      setInFlight(machine, 1, address);
      const report = checkMemory(machine.ram, machine.params);
      expect(report.defects).toEqual([]);
      expect(report.vcpus[1]?.midWrite).toBe(done === 0 ? undefined : address);
    }
  });

  test('a page that is written in part and is not in flight is a defect', () => {
    const machine = pausedMachine();
    const address = writePartly(machine, 1, 20, 5);
    setInFlight(machine, 1, ownedPageAddress(machine.params, 1, 21));
    expect(checkMemory(machine.ram, machine.params).defects).toMatchObject([
      { kind: 'torn', guestPhysicalAddress: address },
    ]);
  });

  test('a page in flight whose first quadwords are the old ones is a defect', () => {
    const machine = pausedMachine();
    const before = words(machine, ownedPageAddress(machine.params, 0, 3)).slice(0, 4);
    const address = writePartly(machine, 0, 3, 12);
    setInFlight(machine, 0, address);
    words(machine, address).set(before);
    expect(checkMemory(machine.ram, machine.params).defects).toMatchObject([{ kind: 'torn' }]);
  });

  test('the sum of a table may be one more than the count of writes, and not two', () => {
    const machine = pausedMachine();
    const control = words(machine, controlAddress(0));
    const writes = control[CONTROL.WRITES / 4] ?? 0;
    control[CONTROL.WRITES / 4] = writes - 1;
    expect(checkMemory(machine.ram, machine.params).defects).toEqual([]);
    control[CONTROL.WRITES / 4] = writes - 2;
    const { defects } = checkMemory(machine.ram, machine.params);
    expect(defects).toMatchObject([{ kind: 'table', expected: writes - 2, found: writes }]);
    expect(defects.map(describeDefect)[0]).toContain('page 0x200000 of vCPU 0');
  });

  test('table and data pages that are stale together do not add up', () => {
    const machine = pausedMachine();
    const old = machine.ram.clone();
    machine.run(3);
    for (const address of [
      machine.params.tables[1] ?? 0,
      ...Array.from({ length: 50 }, (_, index) => ownedPageAddress(machine.params, 1, index)),
    ]) {
      machine.ram.view(address, PAGE_SIZE).set(old.view(address, PAGE_SIZE));
    }
    expect(checkMemory(machine.ram, machine.params).defects).toMatchObject([{ kind: 'table', vcpu: 1 }]);
  });

  test('lists only so many defects, but counts all', () => {
    const machine = pausedMachine();
    for (const range of machine.params.ranges) {
      machine.ram.view(range.guestPhysicalAddress, range.pages * PAGE_SIZE).fill(0);
    }
    const report = checkMemory(machine.ram, machine.params, { limit: 3 });
    expect(report.defects).toHaveLength(3);
    expect(report.defectCount).toBe(100);
  });

  test('a newest message that was lost is noticed although nothing came after it', () => {
    const machine = pausedMachine();
    expect(checkMemory(machine.ram, machine.params).defects).toEqual([]);
    const mailboxMessage = machine.lastMessage + 1;
    expect(checkMemory(machine.ram, machine.params, { mailboxMessage }).defects).toMatchObject([
      { kind: 'mailbox', expected: mailboxMessage, found: machine.lastMessage },
    ]);
    words(machine, MAILBOX_ADDRESS)[4] = 7;
    expect(checkMemory(machine.ram, machine.params).defects).toMatchObject([{ kind: 'mailbox', offset: 16 }]);
  });

  test('a changed image is noticed', () => {
    const machine = pausedMachine();
    const image = guestImage();
    machine.ram.view(IMAGE_ADDRESS, image.length).set(image);
    expect(checkMemory(machine.ram, machine.params, { image }).defects).toEqual([]);
    machine.ram.view(IMAGE_ADDRESS + 100, 1).fill(~(image[100] ?? 0));
    expect(checkMemory(machine.ram, machine.params, { image }).defects).toMatchObject([{ kind: 'image', offset: 100 }]);
  });
});
