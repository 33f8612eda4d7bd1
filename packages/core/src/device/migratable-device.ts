/**
 * Anything besides RAM that moves: a vCPU, an interrupt controller, a serial port, a VFIO device.
 *
 * State is an opaque byte stream with a version. Chunks that the device yields may be of any size (the engine splits
 * and joins them); they are borrowed only until the next one is asked for.
 */
export interface MigratableDevice {
  /** Unique within the VM, the same on both sides. */
  readonly id: string;
  /** Version of the state that `save` writes. */
  readonly version: number;
  /** Oldest version that `load` still reads; default `version`. Checked before a page moves. */
  readonly minimumVersion?: number;
  /** Expected bytes that `save` will yield now, for the downtime estimate. Default: learned, else nothing. */
  stateBytes?(): number | Promise<number>;
  /**
   * State that may move while the guest runs (VFIO PRE_COPY). Called once per round, yields what there is now and ends.
   * It is ended early (`return`) when the link is lost: what it has yielded then counts as sent, what it has not is for
   * the next call, or for `save`.
   */
  precopy?(): AsyncIterable<Uint8Array>;
  /**
   * The destination was restarted and has nothing: the next `precopy` begins with the first byte of the state. A device
   * without it, that has sent something while the guest runs, cannot follow; the migration fails.
   */
  restart?(): Promise<void>;
  /** The rest of the state, with the guest paused. Called at most once per migration. May dirty guest memory. */
  save(): AsyncIterable<Uint8Array>;
  /**
   * Source only: the migration is over, and what `precopy` and `save` hold can be let go. Called once after either of them,
   * whatever became of the migration; when it failed, after the guest runs again. A device that streams its state while it
   * runs stops doing so here.
   */
  release?(): Promise<void>;
  /**
   * Loads the concatenation of all `precopy` chunks and then of `save`'s. Called once, with the guest not yet running;
   * with `precopy` it starts long before the end. Must throw on state it does not understand.
   */
  load(state: AsyncIterable<Uint8Array>, version: number): Promise<void>;
}
