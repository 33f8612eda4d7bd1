import type { GuestMemoryAttachment } from '@godwit/linux';

/** The data with which a vCPU's thread is started. */
export interface VcpuThreadData {
  readonly vcpu: number;
  readonly vcpuFd: number;
  readonly runAddress: bigint;
  readonly runBytes: number;
  /** See `SharedBoard`. */
  readonly board: SharedArrayBuffer;
  /** The guest's RAM, which some devices read. */
  readonly memory: GuestMemoryAttachment;
  /** See `DirtyRingCalls`; absent when the VM has no dirty rings. */
  readonly ringCalls: SharedArrayBuffer | undefined;
}

/** The reason why a vCPU cannot go on. The main thread reads its registers. */
export interface VcpuFailure {
  readonly reason: string;
  /** Set when KVM_RUN has failed: minus its errno. */
  readonly errno?: number;
}

/** Messages of a vCPU's thread to the main thread. */
export type VcpuMessage =
  /** The answer to this order: the thread waits, is not in the guest, and has no incomplete I/O. */
  | { readonly type: 'parked'; readonly order: number }
  /** There is text in the console ring. */
  | { readonly type: 'console' }
  /** The guest wrote to the defect port. */
  | { readonly type: 'defect'; readonly value: number }
  | ({ readonly type: 'failed' } & VcpuFailure);
