/** A stop-and-copy that was given up: the guest runs again, and the destination does not know yet. */
export interface GivenUp {
  readonly attempt: number;
}
