import type { GuestMemoryAttachment } from '@godwit/linux';

export interface SoftwareThreadData {
  /** See `SharedBoard`. */
  readonly board: SharedArrayBuffer;
  readonly memory: GuestMemoryAttachment;
}

/** Orders to the thread, while the guest is stopped. */
export type SoftwareOrder =
  /** Run from this state, made by `encodeSoftwareGuestState`; undefined: from the beginning. */
  { readonly type: 'run'; readonly state: Uint8Array | undefined } | { readonly type: 'end' };

export type SoftwareMessage =
  /** The thread has started, and takes orders. */
  | { readonly type: 'started' }
  /** The answer to this order to rehearse a pause: the guest could have stopped. */
  | { readonly type: 'rehearsed'; readonly order: number }
  /** The guest has stopped, with this state. */
  | { readonly type: 'stopped'; readonly state: Uint8Array }
  | { readonly type: 'console' }
  | { readonly type: 'defect'; readonly value: number };
