import { existsSync } from 'node:fs';
import { GodwitError } from '@godwit/core/errors';
import { closeFd, ioctl, openDevice, requestGuestState } from '../libc/index.js';
import { Cpuid } from './cpuid.js';
import { getAttribute, hasAttribute, type KvmAttribute } from './device-attribute.js';
import { KvmCapability, KvmSystemRequest, KvmValue } from './kvm-constants.js';
import { kvmMsrList } from './kvm-structs.js';
import { KvmVm } from './kvm-vm.js';

/** Room for every index list so far (some 120 MSRs on current hardware); KVM returns E2BIG if it is not enough. */
const MAX_MSRS = 1024;

/** The components of the XSAVE area that guests can be given, as bits: see `allowAmx`. */
const GUEST_COMPONENTS: KvmAttribute = {
  name: 'KVM_X86_XCOMP_GUEST_SUPP',
  group: 0,
  attribute: KvmValue.KVM_X86_XCOMP_GUEST_SUPP,
};
/** The component with the tiles of AMX (asm/fpu/types.h). */
const AMX_DATA = 18;

/** The capabilities that this directory requires; every x86 kernel since 4.12 has all of them. */
const REQUIRED = [
  'KVM_CAP_USER_MEMORY',
  'KVM_CAP_EXT_CPUID',
  'KVM_CAP_MP_STATE',
  'KVM_CAP_VCPU_EVENTS',
  'KVM_CAP_IMMEDIATE_EXIT',
] as const satisfies readonly (keyof typeof KvmCapability)[];

/**
 * The host's KVM: /dev/kvm.
 *
 * @example
 * const kvm = Kvm.open();
 * const vm = kvm.createVm();
 * const vcpu = vm.createVcpu(0);
 */
export class Kvm {
  readonly fd: number;
  /** Bytes to map of each vCPU's descriptor. */
  readonly vcpuMapBytes: number;
  #closed = false;

  private constructor(fd: number) {
    this.fd = fd;
    const version = ioctl(fd, KvmSystemRequest.KVM_GET_API_VERSION, 0, 'KVM_GET_API_VERSION');
    if (version !== KvmValue.KVM_API_VERSION) {
      throw new GodwitError(
        'GODWIT_UNSUPPORTED',
        `KVM API version ${KvmValue.KVM_API_VERSION} is needed, the kernel has ${version}`,
      );
    }
    const missing = REQUIRED.filter((name) => this.checkExtension(KvmCapability[name]) === 0);
    if (missing.length > 0) {
      throw new GodwitError(
        'GODWIT_UNSUPPORTED',
        `this kernel's KVM lacks ${missing.join(', ')}; use Linux 4.12 or newer`,
      );
    }
    this.vcpuMapBytes = ioctl(fd, KvmSystemRequest.KVM_GET_VCPU_MMAP_SIZE, 0, 'KVM_GET_VCPU_MMAP_SIZE');
  }

  /**
   * @throws SyscallError GODWIT_UNSUPPORTED when there is no KVM, GODWIT_PERMISSION when this process may not use it;
   * both messages say what to do. GodwitError GODWIT_UNSUPPORTED on another architecture or a KVM that is too old.
   */
  static open(path = '/dev/kvm'): Kvm {
    if (process.arch !== 'x64') {
      throw new GodwitError('GODWIT_UNSUPPORTED', `the KVM bindings are for x86-64 hosts; this one is ${process.arch}`);
    }
    const fd = openDevice(path);
    try {
      return new Kvm(fd);
    } catch (error) {
      closeFd(fd);
      throw error;
    }
  }

  /** KVM_CHECK_EXTENSION: 0 = absent; what other values mean depends on the capability. */
  checkExtension(capability: number): number {
    return ioctl(this.fd, KvmSystemRequest.KVM_CHECK_EXTENSION, capability, 'KVM_CHECK_EXTENSION');
  }

  /** The CPU that KVM can give to a guest on this host. */
  supportedCpuid(): Cpuid {
    const request = Cpuid.room();
    ioctl(this.fd, KvmSystemRequest.KVM_GET_SUPPORTED_CPUID, request, 'KVM_GET_SUPPORTED_CPUID');
    return Cpuid.decode(request);
  }

  /**
   * Indices of the model-specific registers that KVM lists as a guest's state, or as the value of a feature: see `guestMsrs` for those
   * of one vCPU.
   */
  msrIndices(): readonly number[] {
    const listed = this.#msrList('KVM_GET_MSR_INDEX_LIST');
    if (this.checkExtension(KvmCapability.KVM_CAP_GET_MSR_FEATURES) === 0) return listed;
    return [...new Set([...listed, ...this.#msrList('KVM_GET_MSR_FEATURE_INDEX_LIST')])];
  }

  #msrList(request: 'KVM_GET_MSR_INDEX_LIST' | 'KVM_GET_MSR_FEATURE_INDEX_LIST'): number[] {
    const list = new Uint32Array(kvmMsrList.size / 4 + MAX_MSRS);
    list[0] = MAX_MSRS;
    ioctl(this.fd, KvmSystemRequest[request], new Uint8Array(list.buffer), request);
    return Array.from(list.subarray(1, 1 + (list[0] as number)));
  }

  /**
   * Lets the guests of this process have AMX, whose state is large, where the processor and KVM have it: `supportedCpuid` then has it.
   * To be called before the first vCPU of the process is made.
   *
   * @returns whether guests may have AMX
   */
  allowAmx(): boolean {
    if (this.checkExtension(KvmCapability.KVM_CAP_SYS_ATTRIBUTES) === 0) return false;
    if (!hasAttribute(this.fd, GUEST_COMPONENTS)) return false;
    if ((getAttribute(this.fd, GUEST_COMPONENTS) & (1n << BigInt(AMX_DATA))) === 0n) return false;
    return requestGuestState(AMX_DATA);
  }

  /** KVM_CREATE_VM. Throws `SyscallError`. */
  createVm(): KvmVm {
    return new KvmVm(ioctl(this.fd, KvmSystemRequest.KVM_CREATE_VM, 0, 'KVM_CREATE_VM'), this.vcpuMapBytes);
  }

  /** Idempotent. VMs made from it stay usable. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeFd(this.fd);
  }
}

/**
 * Whether a KVM guest can be made here, and if not, why, in words for a person.
 *
 * @example
 * const kvm = probeKvm();
 * if (!kvm.usable) console.error(kvm.reason);
 */
export function probeKvm(path = '/dev/kvm'): { usable: true } | { usable: false; reason: string } {
  if (!existsSync(path)) return { usable: false, reason: `${path} does not exist` };
  try {
    const kvm = Kvm.open(path);
    try {
      kvm.createVm().close();
    } finally {
      kvm.close();
    }
    return { usable: true };
  } catch (error) {
    return { usable: false, reason: error instanceof Error ? error.message : String(error) };
  }
}
