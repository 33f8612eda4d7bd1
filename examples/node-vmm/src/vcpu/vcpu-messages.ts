import type { GuestMemoryAttachment } from '@godwit/linux';

/** What a vCPU's thread is started with. */
export interface VcpuThreadData {
  readonly vcpu: number;
  readonly vcpuFd: number;
  readonly runAddress: bigint;
  readonly runBytes: number;
  /** See `SharedBoard`. */
  readonly board: SharedArrayBuffer;
  /** RAM by address: some devices read it. */
  readonly memory: GuestMemoryAttachment;
}

/** Why a vCPU cannot go on. Registers are read by the main thread. */
export interface VcpuFailure {
  readonly reason: string;
  /** Set when it is the host that failed: minus errno of KVM_RUN. */
  readonly errno?: number;
}

/** What a vCPU's thread says to the main thread. */
export type VcpuMessage =
  /** Not in the guest, no I/O half done, waiting; in answer to this order. */
  | { readonly type: 'parked'; readonly order: number }
  /** There is text in the console ring. */
  | { readonly type: 'console' }
  /** The guest wrote to the defect port. */
  | { readonly type: 'defect'; readonly value: number }
  | ({ readonly type: 'failed' } & VcpuFailure);
