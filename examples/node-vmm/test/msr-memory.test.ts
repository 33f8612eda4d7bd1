import { createGuestMemory } from '@godwit/linux';
import { afterAll, expect, test } from '@jest/globals';
import { pagesWrittenByMsrs } from '../dist/vcpu/msr-memory.js';

const memory = createGuestMemory({
  blocks: [
    { id: 'low', guestPhysicalAddress: 0, byteLength: 16 * 4096 },
    { id: 'high', guestPhysicalAddress: 2 ** 32, byteLength: 16 * 4096 },
  ],
});
afterAll(() => memory.close());

const written = (index: number, value: bigint) => pagesWrittenByMsrs(memory, [{ index, value }]);

/** From arch/x86/include/uapi/asm/kvm_para.h. */
const MSR_KVM_WALL_CLOCK = 0x11;
const MSR_KVM_SYSTEM_TIME_NEW = 0x4b56_4d01;
const MSR_KVM_WALL_CLOCK_NEW = 0x4b56_4d00;
const MSR_KVM_STEAL_TIME = 0x4b56_4d03;

test('registers that hold no address, or are turned off, write nothing', () => {
  expect(pagesWrittenByMsrs(memory, [])).toEqual([]);
  expect(written(0x10, 0x5000n)).toEqual([]);
  expect(written(MSR_KVM_WALL_CLOCK, 0n)).toEqual([]);
  expect(written(MSR_KVM_STEAL_TIME, 0x5000n)).toEqual([]);
  // Written when the vCPU enters the guest, which a load never does.
  expect(written(MSR_KVM_SYSTEM_TIME_NEW, 0x5001n)).toEqual([]);
});

test('the page with the area is reported, in whichever block it is', () => {
  expect(written(MSR_KVM_WALL_CLOCK, 0x3010n)).toEqual([{ block: 0, firstPage: 3, pageCount: 1 }]);
  expect(written(MSR_KVM_STEAL_TIME, 0x1_0000_5041n)).toEqual([{ block: 1, firstPage: 5, pageCount: 1 }]);
  expect(written(0x4000_0001, 0x7001n)).toEqual([{ block: 0, firstPage: 7, pageCount: 1 }]);
});

test('an area that crosses the border of two pages is reported with both, and one outside RAM not at all', () => {
  expect(written(MSR_KVM_WALL_CLOCK_NEW, 0x3ff8n)).toEqual([{ block: 0, firstPage: 3, pageCount: 2 }]);
  expect(written(MSR_KVM_WALL_CLOCK_NEW, 0xfff8n)).toEqual([{ block: 0, firstPage: 15, pageCount: 1 }]);
  expect(written(MSR_KVM_WALL_CLOCK_NEW, 0x10_0000n)).toEqual([]);
});
