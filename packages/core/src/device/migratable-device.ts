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
  /**
   * Source: why the guest must not be paused now, in words for a person (a VFIO device whose initial bytes have not been
   * taken); `undefined` when it may be. Asked before each stop-and-copy, while the guest runs.
   */
  switchoverBlocker?(): string | undefined | Promise<string | undefined>;
  /** Either side: why the device cannot be migrated at all, or `undefined`. Asked once, before a page moves; by `dryRun` too. */
  migrationBlocker?(): string | undefined | Promise<string | undefined>;
  /**
   * The rest of the state, with the guest paused. Called once in each stop-and-copy: again when one was given up and the
   * guest has run on since, but never while an earlier call has not ended. `signal` aborts when the stop-and-copy is given up:
   * end as soon as you can, the guest runs again then. May dirty guest memory.
   */
  save(signal?: AbortSignal): AsyncIterable<Uint8Array>;
  /**
   * Source only: the migration is over, and what `precopy` and `save` hold can be let go. Called once after either of them,
   * whatever became of the migration; when it failed, after the guest runs again. A device that streams its state while it
   * runs stops doing so here.
   */
  release?(): Promise<void>;
  /**
   * Loads the concatenation of all `precopy` chunks and then of `save`'s, to the last byte, with the guest not running; with
   * `precopy` it starts long before the end, and what `save` yields comes once all of it is there. Must throw on state it does
   * not understand. After a stop-and-copy that was given up it is called again, with a whole new state: see `reset`.
   */
  load(state: AsyncIterable<Uint8Array>, version: number): Promise<void>;
  /**
   * Destination: resolves when from here on `load` is quick: threads stand, memory is allocated. Asked before the guest is
   * paused, and again after a `reset`. Without it the device is prepared once it has taken all that has come.
   */
  prepared?(): Promise<void>;
  /**
   * Destination: everything that was loaded is void, and the state comes anew from its first byte, with another call of `load`
   * (VFIO: RESUMING ends only by completion or reset). Called when a stop-and-copy is given up after `load` was handed its end;
   * the source's device is then told to `restart`. A device with `precopy` that lacks it cannot go back: the migration ends, and
   * the guest stays at the source.
   */
  reset?(): Promise<void>;
  /**
   * What giving a stop-and-copy up voids. `stop-state` (the default): what `save` has yielded; what `precopy` has goes on to hold.
   * `everything`: that too (VFIO, whose stop-and-copy state continues the stream of its pre-copy): the destination's device is reset,
   * and the source's is told to `restart`.
   */
  readonly backVoids?: 'stop-state' | 'everything';
  /**
   * Destination: pages of guest memory that the last `load` wrote, by the index of their block. They are owed again when the
   * stop-and-copy is given up. A device whose `load` writes no guest memory yields nothing; without this method every page
   * counts as written.
   */
  loadWrites?(): Iterable<{ readonly block: number; readonly firstPage: number; readonly pageCount: number }>;
}
