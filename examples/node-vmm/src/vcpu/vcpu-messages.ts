import type { GuestMemoryAttachment } from '@godwit/linux';
import type { MachineBoot } from '../machine/machine-config.js';

/** The data with which a vCPU's thread is started. */
export interface VcpuThreadData {
  readonly vcpu: number;
  readonly vcpuFd: number;
  /** The VM's descriptor, for its interrupt lines. */
  readonly vmFd: number;
  /** What the machine was booted from: its ports depend on it. Absent for the bundled guest. */
  readonly boot: MachineBoot | undefined;
  /** Number of virtio devices. */
  readonly virtioDevices: number;
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
  /** Set when the guest has ended itself. */
  readonly end?: GuestEnd;
}

/** How a guest ends itself. */
export type GuestEnd = 'shutdown' | 'reset';

/** Messages of a vCPU's thread to the main thread. */
export type VcpuMessage =
  /** The answer to this order: the thread waits, is not in the guest, and has no incomplete I/O. */
  | { readonly type: 'parked'; readonly order: number }
  /** There is text in the console ring. */
  | { readonly type: 'console' }
  /** The vCPU waits for the answer to its access to a register of a virtio device: see `MmioWindow`. */
  | { readonly type: 'register' }
  /** A queue of a virtio device was notified. */
  | { readonly type: 'notified' }
  /** The guest wrote to the defect port. */
  | { readonly type: 'defect'; readonly value: number }
  | ({ readonly type: 'failed' } & VcpuFailure);
