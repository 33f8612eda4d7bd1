/** Which hand-over of which guest is asked about. */
export interface Transfer {
  readonly migrationId: string;
  /** The stop-and-copy that leads to it: one that was given up is never asked about again. */
  readonly attempt: number;
  /** The destination's VM (`WelcomeFrame.incarnation`). */
  readonly incarnation: string;
}

/**
 * Who decides which side owns a guest. By default the two sides do, by `go` (`localAuthority`); with a lease in an existing
 * engine (etcd, Consul, a database) it is whoever holds the lease, and a network that is cut in two cannot make two guests.
 *
 * Asking for the transfer is the point of no return: the source resumes its guest after it only upon a definite `refused`, or a
 * confirmed `withdrawn`. A call that rejects, or does not return, says nothing either way.
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
  /** Source, with the destination ready and the guest paused: the guest is the destination's from here on. */
  transfer(transfer: Transfer): Promise<'granted' | 'refused'>;
  /**
   * Source, when `transfer` has failed or has not returned in time: makes certain. `withdrawn`: the transfer has not
   * happened and never will. `granted`: it has happened.
   */
  withdraw(transfer: Transfer): Promise<'withdrawn' | 'granted'>;
  /**
   * Before a side runs the guest: the destination after `go`, either side in `recover`. Asked again for as long as it
   * rejects, except by `recover`, which rejects too.
   */
  mayRun(transfer: Transfer, role: 'source' | 'destination'): Promise<boolean>;
}

/** `go` itself decides, and in `recover` the word of whoever calls. */
export const localAuthority: OwnershipAuthority = {
  transfer: async () => 'granted',
  withdraw: async () => 'withdrawn',
  mayRun: async () => true,
};
