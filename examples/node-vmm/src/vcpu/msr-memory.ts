import type { GuestMemory, PageRun } from '@godwit/core';
import type { MsrValue } from '@godwit/linux/kvm';

interface SharedArea {
  readonly msr: number;
  readonly byteLength: number;
  /** Bits of the value that are not part of the address. */
  readonly flags: bigint;
  /** The bit that enables the area; without it any address other than 0 enables it. */
  readonly enabled?: bigint;
}

/**
 * Model-specific registers with the address of guest memory that KVM writes when they are set, or when the vCPU is scheduled out
 * afterwards: Documentation/virt/kvm/x86/msr.rst, and the Hyper-V specification for the last two. The clock pages
 * (MSR_KVM_SYSTEM_TIME, HV_X64_MSR_REFERENCE_TSC) are not among them: KVM writes these when it enters the guest.
 */
const AREAS: readonly SharedArea[] = [
  // MSR_KVM_WALL_CLOCK and MSR_KVM_WALL_CLOCK_NEW
  { msr: 0x11, byteLength: 12, flags: 0n },
  { msr: 0x4b56_4d00, byteLength: 12, flags: 0n },
  // MSR_KVM_STEAL_TIME
  { msr: 0x4b56_4d03, byteLength: 64, flags: 0x3fn, enabled: 1n },
  // HV_X64_MSR_HYPERCALL
  { msr: 0x4000_0001, byteLength: 4096, flags: 0xfffn, enabled: 1n },
  // HV_X64_MSR_VP_ASSIST_PAGE
  { msr: 0x4000_0073, byteLength: 4096, flags: 0xfffn, enabled: 1n },
];

/** The pages of guest memory that KVM may have written when these registers were set; none without paravirtual features. */
export function pagesWrittenByMsrs(
  memory: GuestMemory,
  msrs: readonly MsrValue[],
): readonly (PageRun & { readonly block: number })[] {
  return AREAS.flatMap(({ msr, byteLength, flags, enabled }) => {
    const value = msrs.find(({ index }) => index === msr)?.value ?? 0n;
    if (enabled === undefined ? value === 0n : (value & enabled) === 0n) return [];
    return pagesAt(memory, Number(value & ~flags), byteLength);
  });
}

/** The RAM pages of a range of guest-physical addresses. */
function pagesAt(
  { pageSize, blocks }: GuestMemory,
  address: number,
  byteLength: number,
): readonly (PageRun & { readonly block: number })[] {
  return blocks.flatMap((block, index) => {
    const from = Math.max(address - block.guestPhysicalAddress, 0);
    const to = Math.min(address - block.guestPhysicalAddress + byteLength, block.byteLength);
    if (from >= to) return [];
    const firstPage = Math.floor(from / pageSize);
    return [{ block: index, firstPage, pageCount: Math.ceil(to / pageSize) - firstPage }];
  });
}
