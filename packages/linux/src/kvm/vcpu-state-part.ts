import { KvmCapability, KvmVcpuRequest } from './kvm-constants.js';
import {
  kvmDebugregs,
  kvmFpu,
  kvmLapicState,
  kvmMpState,
  kvmRegs,
  kvmSregs,
  kvmSregs2,
  kvmVcpuEvents,
  kvmXcrs,
  kvmXsave,
} from './kvm-structs.js';

/** A piece of a vCPU's state that KVM reads and writes whole: one pair of ioctls. */
export interface VcpuStatePart {
  readonly name: string;
  readonly get: { readonly name: string; readonly request: number };
  readonly set: { readonly name: string; readonly request: number };
  /** Bytes of the structure; 0 when the value of the capability is the size. */
  readonly size: number;
  /** KVM_CAP_* without which the calls do not exist; always there if undefined. */
  readonly capability?: number;
}

type Request = keyof typeof KvmVcpuRequest;

function part(name: string, get: Request, set: Request, size: number, capability?: number): VcpuStatePart {
  return {
    name,
    get: { name: get, request: KvmVcpuRequest[get] },
    set: { name: set, request: KvmVcpuRequest[set] },
    size,
    ...(capability === undefined ? {} : { capability }),
  };
}

/** All pieces that a guest on x86 has, except CPUID, MSRs and the TSC frequency, which are not of one fixed shape. */
export const VcpuState = {
  generalRegisters: part('general registers', 'KVM_GET_REGS', 'KVM_SET_REGS', kvmRegs.size),
  specialRegisters: part('special registers', 'KVM_GET_SREGS', 'KVM_SET_SREGS', kvmSregs.size),
  /** As above with the page-directory pointers of PAE paging, without the interrupt bitmap. */
  specialRegisters2: part(
    'special registers 2',
    'KVM_GET_SREGS2',
    'KVM_SET_SREGS2',
    kvmSregs2.size,
    KvmCapability.KVM_CAP_SREGS2,
  ),
  fpu: part('FPU', 'KVM_GET_FPU', 'KVM_SET_FPU', kvmFpu.size),
  xsave: part('XSAVE area', 'KVM_GET_XSAVE', 'KVM_SET_XSAVE', kvmXsave.size, KvmCapability.KVM_CAP_XSAVE),
  /** The whole area, AMX included. KVM_SET_XSAVE takes it: it reads as many bytes as KVM_CAP_XSAVE2 says. */
  xsave2: part('XSAVE area 2', 'KVM_GET_XSAVE2', 'KVM_SET_XSAVE', 0, KvmCapability.KVM_CAP_XSAVE2),
  extendedControlRegisters: part('XCRs', 'KVM_GET_XCRS', 'KVM_SET_XCRS', kvmXcrs.size, KvmCapability.KVM_CAP_XCRS),
  debugRegisters: part(
    'debug registers',
    'KVM_GET_DEBUGREGS',
    'KVM_SET_DEBUGREGS',
    kvmDebugregs.size,
    KvmCapability.KVM_CAP_DEBUGREGS,
  ),
  /** Exists only with an in-kernel irqchip. */
  localApic: part('local APIC', 'KVM_GET_LAPIC', 'KVM_SET_LAPIC', kvmLapicState.size, KvmCapability.KVM_CAP_IRQCHIP),
  events: part(
    'events',
    'KVM_GET_VCPU_EVENTS',
    'KVM_SET_VCPU_EVENTS',
    kvmVcpuEvents.size,
    KvmCapability.KVM_CAP_VCPU_EVENTS,
  ),
  multiprocessorState: part(
    'MP state',
    'KVM_GET_MP_STATE',
    'KVM_SET_MP_STATE',
    kvmMpState.size,
    KvmCapability.KVM_CAP_MP_STATE,
  ),
} as const satisfies Readonly<Record<string, VcpuStatePart>>;
