import type { GuestMemoryAttachment } from '@godwit/linux';

export interface SoftwareThreadData {
  /** See `SharedBoard`. */
  readonly board: SharedArrayBuffer;
  readonly memory: GuestMemoryAttachment;
}

/** To the thread, while the guest is stopped. */
export type SoftwareOrder =
  /** Run from this state, which `encodeSoftwareGuestState` made; undefined: from the beginning. */
  { readonly type: 'run'; readonly state: Uint8Array | undefined } | { readonly type: 'end' };

export type SoftwareMessage =
  /** The thread stands, and takes orders. */
  | { readonly type: 'started' }
  /** The guest has stopped, with this state. */
  | { readonly type: 'stopped'; readonly state: Uint8Array }
  | { readonly type: 'console' }
  | { readonly type: 'defect'; readonly value: number };
