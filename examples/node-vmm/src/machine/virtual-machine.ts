import type { GodwitError, MigratableVm, RunState } from '@godwit/core';
import type { MappedGuestMemory } from '@godwit/linux';
import type { Observable } from 'rxjs';
import type { GuestRam } from '../guest/guest-ram.js';
import type { DefectKind } from '../guest/ports.js';
import type { MachineDescription } from './machine-config.js';

/** What happens to a machine, for its embedder. */
export type MachineEvent =
  | { readonly type: 'resumed' }
  | { readonly type: 'paused' }
  /** The guest cannot go on (GODWIT_GUEST_CRASHED); what still ran has been stopped. */
  | { readonly type: 'crashed'; readonly error: GodwitError }
  /** The guest has found its memory to be wrong. */
  | { readonly type: 'defect'; readonly kind: DefectKind | undefined; readonly vcpu: number }
  | { readonly type: 'closed' };

/**
 * A virtual machine with the bundled guest. Made paused: `resume` starts it. It keeps the process alive until it is
 * closed.
 */
export interface VirtualMachine extends MigratableVm {
  readonly memory: MappedGuestMemory;
  /** What a destination needs to make the same machine. */
  readonly description: MachineDescription;
  /** Text that the guest prints, in pieces as they come. Hot: what nobody listens to is gone. */
  readonly console: Observable<string>;
  readonly events: Observable<MachineEvent>;
  readonly state: 'paused' | 'running' | 'crashed' | 'closed';
  /** The same memory by guest-physical address. */
  readonly ram: GuestRam;
  /** The pause clock: microseconds since the guest's start, wherever it was. */
  readonly guestMicroseconds: number;
  runState(): RunState;
  /** Resolves when all threads of the machine stand: from here on its devices load in about a millisecond. */
  prepared(): Promise<void>;
  throttle(fraction: number): void;
  abandon(reason: Error): Promise<void>;
  /** Stops the guest and frees everything. Idempotent. */
  close(): Promise<void>;
}
