/** The hand-over of a guest about which the authority is asked. */
export interface Transfer {
  readonly migrationId: string;
  /** Number of the stop-and-copy that leads to the transfer, from 1. The authority is never asked again about one that was given up. */
  readonly attempt: number;
  /** Names the destination's VM (`WelcomeFrame.incarnation`): 32 hex digits. */
  readonly incarnation: string;
}

/**
 * Decides which side owns a guest. By default the two sides decide by `go` (`localAuthority`). With a lease in an existing engine
 * (etcd, Consul, a database) the owner of the lease owns the guest, so that a network partition cannot lead to two running guests.
 *
 * Asking for the transfer is the point of no return: after it the source resumes its guest only when it was `refused` or is
 * `withdrawn`. A call that rejects or does not return in time counts as no answer.
 *
 * @example
 * // The store keeps the owner, and the last attempt that was withdrawn: a transfer that arrives after that fails for good.
 * const lease: OwnershipAuthority = {
 *   transfer: async ({ attempt, incarnation }) =>
 *     (await store.change(vmId, (row) => row.owner === me && row.withdrawn < attempt && { ...row, owner: incarnation }))
 *       ? 'granted'
 *       : 'refused',
 *   withdraw: async ({ attempt }) =>
 *     (await store.change(vmId, (row) => row.owner === me && { ...row, withdrawn: attempt })) ? 'withdrawn' : 'granted',
 *   mayRun: async ({ incarnation }, role) => (await store.owner(vmId)) === (role === 'source' ? me : incarnation),
 * };
 * migrate(vm, connector, { authority: lease });
 */
export interface OwnershipAuthority {
  /**
   * Called by the source, with the destination ready and the guest paused: makes the destination the owner. `refused`: the destination
   * has not become the owner, and never will by this transfer.
   */
  transfer(transfer: Transfer): Promise<'granted' | 'refused'>;
  /**
   * Called by the source when `transfer` has rejected or has not returned in time, to find out whether the transfer has happened.
   * `withdrawn`: the transfer has not happened and never will. `granted`: it has happened.
   */
  withdraw(transfer: Transfer): Promise<'withdrawn' | 'granted'>;
  /**
   * Called before a side runs the guest: by the destination after `go`, by either side in `recover`. Resolves with whether that side is
   * the owner. When the promise rejects after `go`, the destination asks again; in `recover`, `recover` rejects too.
   */
  mayRun(transfer: Transfer, role: 'source' | 'destination'): Promise<boolean>;
}

/** The default authority, which grants everything: `go` decides, and in `recover` the embedder that calls it. */
export const localAuthority: OwnershipAuthority = {
  transfer: async () => 'granted',
  withdraw: async () => 'withdrawn',
  mayRun: async () => true,
};
