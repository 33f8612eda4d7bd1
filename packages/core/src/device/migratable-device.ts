/**
 * Bytes of state; or, where the size cannot be known, the assumed bytes and the reason in words for a person. An assumption counts in
 * predictions and is told to whoever watches, but is no reason for a destination to refuse the state.
 */
export type StateBytes = number | { readonly bytes: number; readonly assumed: string };

/**
 * Any part of a VM besides RAM whose state is migrated: a vCPU, an interrupt controller, a serial port, a VFIO device.
 *
 * The state is an opaque byte stream with a version. The device may yield chunks of any size (the engine splits and joins them); each
 * is borrowed until the next one is asked for. A chunk is a `Uint8Array` (a `Buffer` is one); anything else fails the migration with
 * `GODWIT_DEVICE_FAILED`, which names the device. An empty chunk is no state.
 *
 * @example
 * const counter: MigratableDevice = {
 *   id: 'counter',
 *   version: 1,
 *   async *save() {
 *     yield Uint8Array.of(value);
 *   },
 *   async load(state) {
 *     for await (const piece of state) value = piece[0] ?? value; // to its last byte
 *   },
 * };
 */
export interface MigratableDevice {
  /** Unique within the VM, the same on both sides. */
  readonly id: string;
  /** Version of the state that `save` writes. */
  readonly version: number;
  /** Oldest version that `load` still reads; default `version`. Checked before a page moves. */
  readonly minimumVersion?: number;
  /** Bytes that `save` would yield now, for the prediction of the downtime. Without this method 0 is assumed until a save was measured. */
  stateBytes?(): StateBytes | Promise<StateBytes>;
  /**
   * Destination: the most bytes of state that its `load` takes, of `precopy` and `save` together. A source whose device expects to save
   * more is refused before a page moves, by the device's name; a stream that becomes longer is ended with `GODWIT_LIMIT_EXCEEDED`, which
   * names it too. Default: no limit.
   */
  readonly maximumStateBytes?: number;
  /**
   * Source: milliseconds that `save` would take now, without sending what it yields; `undefined` when that is not known. Asked with the
   * guest running, for the prediction of the downtime; a value that is no possible time is reported in a warning and not used.
   */
  expectedSaveMs?(): number | undefined;
  /**
   * Destination, once `prepared` has resolved: milliseconds that `load` would take for `bytes` more bytes of state; `undefined` when that
   * is not known. It is reported to the source, for its prediction; a value that is no possible time is reported in a warning and not used.
   */
  expectedLoadMs?(bytes: number): number | undefined;
  /**
   * Whether `save` and `load` of this device may run at the same time as those of its neighbours in the VM's list that are `parallel` too:
   * for devices with slow firmware. Default false: one device after the other.
   */
  readonly parallel?: boolean;
  /**
   * Yields state while the guest runs (VFIO PRE_COPY). Called at most once a round; yields the state that is there and ends. The iteration
   * is ended early (`return`) when the link is lost: what it has yielded counts as sent, and the next call or `save` yields the rest.
   */
  precopy?(): AsyncIterable<Uint8Array>;
  /**
   * Source: begins again with the first byte of the state in the next `precopy`, since the destination has lost or reset the device's
   * state. Without this method the migration fails (`GODWIT_UNSUPPORTED`) if the device has yielded state while the guest runs.
   */
  restart?(): Promise<void>;
  /**
   * Source: the reason, for people, why the guest must not be paused now (a VFIO device whose initial bytes have not been taken);
   * `undefined` when it may be. Called before each stop-and-copy, while the guest runs.
   */
  switchoverBlocker?(): string | undefined | Promise<string | undefined>;
  /** Either side: the reason why the device cannot be migrated, or `undefined`. Called once, before a page moves, and by a dry run. */
  migrationBlocker?(): string | undefined | Promise<string | undefined>;
  /**
   * Destination: the reason, for people, why the guest's memory must be whole before the guest runs: a device that accesses it by DMA
   * cannot wait for a page. Absent: the device touches guest memory only by its address, or awaits `GuestMemory.present`.
   */
  readonly wholeMemory?: string | undefined;
  /**
   * Yields the rest of the state, with the guest paused. Called once in each stop-and-copy: again after one that was given up, when the
   * guest has run since, but never while an earlier call has not ended. A device must yield at least a byte, unless it has yielded state in
   * `precopy`: the migration is refused, with the device's name, if a device saves nothing, which would be a mistake in it. `signal` aborts
   * when the stop-and-copy is given up: the iteration must then end soon, since the guest runs again. It may write guest memory, which a
   * tracker must see. A device that finds only now that the guest must not be stopped yet throws GODWIT_SWITCHOVER_OVERRAN: the guest runs
   * on, and pre-copy goes on.
   */
  save(signal?: AbortSignal): AsyncIterable<Uint8Array>;
  /**
   * Source: frees what `precopy` and `save` hold, at the end of the migration. Called once if either was called, whatever the result of the
   * migration; after a failure it is called when the guest runs again. A device that streams its state while the guest runs stops doing so
   * here.
   */
  release?(): Promise<void>;
  /**
   * Destination: loads the chunks of `precopy` and then those of `save`, to the last byte, with the guest not running here. With `precopy`
   * it is called while the guest runs at the source. The chunks of `save` are passed on once all of them have come, or as they come where
   * they are more than the destination holds (`maximumDeviceState`). What `load` writes to a block that both sides share stays there when
   * the stop-and-copy is given up, so it must not matter to the guest (KVM's wall clock page does not). The promise must reject for state
   * that the device does not understand. After a stop-and-copy that was given up, `load` is called again with the whole new state: see
   * `reset`.
   */
  load(state: AsyncIterable<Uint8Array>, version: number): Promise<void>;
  /**
   * Destination: resolves when the rest of `load` will be quick: its threads are started, its memory is allocated. Called before the guest
   * is paused, and again after a `reset`. Without this method the device counts as prepared once it has taken all state that has come.
   */
  prepared?(): Promise<void>;
  /**
   * Destination: voids everything that was loaded; the state comes again from its first byte, with another call of `load` (VFIO:
   * RESUMING ends only by completion or reset). Called when a stop-and-copy is given up after `load` was given the end of the state; the
   * source's device is then told to `restart`. A device with `precopy` and without `reset` cannot go back: the migration fails, and the
   * guest stays at the source.
   */
  reset?(): Promise<void>;
  /**
   * The state that giving up a stop-and-copy voids. `stop-state` (the default): that of `save`; the state of `precopy` stays valid.
   * `everything`: both (VFIO, whose stop-and-copy state continues the stream of its pre-copy): the destination's device is reset, and
   * the source's is told to `restart`.
   */
  readonly backVoids?: 'stop-state' | 'everything';
  /**
   * Destination: the pages of guest memory that the last `load` has written; `block` is an index into `GuestMemory.blocks`. The source
   * sends them again when the stop-and-copy is given up. A device whose `load` writes no guest memory returns none; without this method
   * every page counts as written. Pages of shared blocks do not count. The method is also called when there was more state than the
   * destination holds, so that state was loaded before the last pages came: if a `load` has written one of these pages, the migration fails
   * (`GODWIT_DEVICE_FAILED`), and the guest stays at the source.
   */
  loadWrites?(): Iterable<{ readonly block: number; readonly firstPage: number; readonly pageCount: number }>;
}
