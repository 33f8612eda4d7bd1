import type { GodwitError, MigratableVm, RunState, ThrottleOptions } from '@godwit/core';
import type { MappedGuestMemory } from '@godwit/linux';
import type { Observable } from 'rxjs';
import type { GuestRam } from '../guest/guest-ram.js';
import type { DefectKind } from '../guest/ports.js';
import type { GuestEnd } from '../vcpu/vcpu-messages.js';
import type { MachineDescription } from './machine-config.js';

/** The events of a machine. */
export type MachineEvent =
  | { readonly type: 'resumed' }
  | { readonly type: 'paused' }
  /** The guest cannot go on (GODWIT_GUEST_CRASHED), and the machine has stopped. */
  | { readonly type: 'crashed'; readonly error: GodwitError }
  /** The guest has shut itself down or asked for a reset (GODWIT_GUEST_ENDED), and the machine has stopped. */
  | { readonly type: 'ended'; readonly end: GuestEnd; readonly error: GodwitError }
  /** The guest has found a defect in its memory. */
  | { readonly type: 'defect'; readonly kind: DefectKind | undefined; readonly vcpu: number }
  /** The guest has broken a virtio device, whose driver has to reset it; the guest and its other devices go on. */
  | { readonly type: 'needs-reset'; readonly device: string; readonly reason: string }
  | { readonly type: 'closed' };

/**
 * A virtual machine with the bundled guest. A new one is paused: `resume` starts it. It keeps the process alive until it is closed.
 */
export interface VirtualMachine extends MigratableVm {
  readonly memory: MappedGuestMemory;
  /** The description from which a destination makes the same machine. */
  readonly description: MachineDescription;
  /** The text that the guest prints, in pieces. Hot: text without a subscriber is lost. */
  readonly console: Observable<string>;
  readonly events: Observable<MachineEvent>;
  readonly state: 'paused' | 'running' | 'crashed' | 'ended' | 'closed';
  /** The guest's memory by guest-physical address. */
  readonly ram: GuestRam;
  /** The pause clock: microseconds since the guest's start, at any host. */
  readonly guestMicroseconds: number;
  runState(): RunState;
  /**
   * Adds input to the guest's console; absent for a guest that reads none.
   *
   * @throws GodwitError GODWIT_INVALID_STATE when too much earlier input is unread
   */
  type?(bytes: Uint8Array): void;
  /** Bytes that the guest has put into its balloon; absent without one. */
  readonly balloonBytes?: number | undefined;
  /** Asks the guest to put so many bytes into its balloon. @throws GodwitError GODWIT_UNSUPPORTED for a guest without one */
  inflateBalloon?(bytes: number): void;
  /** Presses the guest's power button. @throws GodwitError GODWIT_UNSUPPORTED for a guest without one, GODWIT_INVALID_STATE if it is paused */
  pressPowerButton?(): void;
  /** Resolves when all threads of the machine have started: its devices then load in about a millisecond. */
  prepared(): Promise<void>;
  /** Throttles the vCPUs. Without `longestMs` a hold is limited by the fraction alone, and takes at most 10 ms. */
  throttle(fraction: number, options?: Partial<ThrottleOptions>): void;
  /** The time for which the throttle has held back each vCPU so far, in milliseconds; for a software guest one number for all. */
  heldMs(): readonly number[];
  rehearsePause(signal?: AbortSignal): Promise<number>;
  abandon(reason: Error): Promise<void>;
  /**
   * Stops the guest and frees everything. Idempotent.
   *
   * @throws GodwitError GODWIT_CLAIMED while a migration uses the machine: nothing was closed. `abandon` is allowed
   */
  close(): Promise<void>;
}
