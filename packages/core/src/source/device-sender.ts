import { abortable, underAll } from '../abortable.js';
import type { Clock } from '../clock.js';
import type { MigratableDevice } from '../device/migratable-device.js';
import { sideBySide } from '../device/side-by-side.js';
import { GodwitError } from '../errors.js';
import { isLost } from '../session/connection.js';
import { AttemptPieces } from './attempt-pieces.js';
import { DeviceCalls, deviceFailed } from './device-calls.js';
import { type DeviceLink, DeviceOutbox, type OutboxParts } from './device-outbox.js';
import { DeviceReports } from './device-reports.js';

/** The number of bytes in unacknowledged pieces of pre-copy from which on a device waits for an acknowledgement. */
const MOST_KEPT_BYTES = 16 * 2 ** 20;

const NOTHING_SAVED =
  'save() yielded no state at all, and none was yielded while the guest ran; a device without state must not be in the list of devices';

/**
 * Sends device state, over the page channels where there are any: some of it between rounds while the guest runs, within the bandwidth
 * limit, and the rest with the guest paused, without a limit.
 *
 * State that `save` yields belongs to its stop-and-copy and is not kept: the next attempt calls `save` again.
 */
export class DeviceSender {
  readonly calls: DeviceCalls;
  /** What devices report of their state, for predictions. */
  readonly reports: DeviceReports;
  readonly #devices: readonly MigratableDevice[];
  readonly #clock: Clock | undefined;
  readonly #outbox: DeviceOutbox;
  /** Per device: how often it was restarted. State that a `precopy` begun before the last restart yields is not sent. */
  readonly #epochs: number[];
  /** True when each device's `precopy` is to stop after the present chunk: the guest is about to be paused by force. */
  #enough = false;
  /** The error of a device whose `precopy` outlived its round; the next round throws it. */
  #failure: { readonly error: unknown } | undefined;
  /** The pieces of the stop-and-copy that is under way, until the destination is known to have voided them. */
  #pieces: AttemptPieces | undefined;
  #lastAttempt = 0;

  constructor(devices: readonly MigratableDevice[], parts: OutboxParts = {}) {
    this.#devices = devices;
    this.#clock = parts.clock;
    this.calls = new DeviceCalls(devices);
    this.reports = new DeviceReports(devices, this.calls);
    this.#outbox = new DeviceOutbox(devices, parts);
    this.#epochs = devices.map(() => 0);
  }

  /**
   * Sends state over `link` from now on. `maximumPayload` is the most bytes that the destination takes in one frame,
   * `maximumDeviceState` the most that it holds before its devices have loaded them.
   */
  use(link: DeviceLink, maximumPayload: number, maximumDeviceState: number): void {
    this.#outbox.use(link, maximumPayload, maximumDeviceState);
  }

  /** Per device: the sequence of the next piece that is sent while the guest runs. */
  get sequences(): readonly number[] {
    return this.#outbox.sequences;
  }

  /** Bytes of device state that were written so far, framing not included; state that was sent again counts again. */
  get writtenBytes(): number {
    return this.#outbox.writtenBytes;
  }

  /** Milliseconds in which a piece of pre-copy waited for the link, and for nothing else. */
  get linkMs(): number {
    return this.#outbox.linkMs;
  }

  /** Whether pieces are still being sent while the round goes on, since they wait for room at the destination. */
  get flushing(): boolean {
    return this.#outbox.flushing;
  }

  /**
   * Sends the state that devices yield while the guest runs, one device after the other. A device that is still busy is left out. A device
   * whose state the destination loads more slowly than it comes goes on while the next rounds are sent, and so does any device under way
   * when `cut` aborts.
   */
  async precopy(cut?: AbortSignal): Promise<void> {
    const { link } = this.#outbox;
    if (this.#failure !== undefined) throw this.#failure.error;
    this.#enough = false;
    this.#outbox.limited();
    const stalled = new Promise<void>((resolve) => {
      this.#outbox.onStall = resolve;
    });
    const onCut = () => this.#outbox.onStall();
    cut?.addEventListener('abort', onCut, { once: true });
    try {
      await this.#precopy(link, stalled, () => cut?.aborted === true);
    } finally {
      cut?.removeEventListener('abort', onCut);
    }
  }

  async #precopy(link: DeviceLink, stalled: Promise<void>, isCut: () => boolean): Promise<void> {
    if (!this.#outbox.flushing) await Promise.race([this.#outbox.flush(link), stalled]);
    for (const [index, device] of this.#devices.entries()) {
      if (isCut()) return;
      if (device.precopy === undefined || this.calls.isBusy(device)) continue;
      const epoch = this.#epochs[index];
      const start = this.#clock?.now();
      const before = this.#outbox.keptBytes;
      const chunks = this.calls.begin(device, 'pre-copy', (failed) =>
        this.#each(
          link.signal,
          failed,
          () => device.precopy?.(),
          async (chunk) => {
            if (epoch !== this.#epochs[index]) return false;
            await this.#iterative(link, index, chunk);
            return !this.#enough;
          },
        ),
      );
      chunks.catch((error: unknown) => {
        // A lost link is also reported by the round, and the pieces that the device has yielded are kept, so it is no failure.
        if (!link.signal.aborted && !isLost(error)) this.#failure ??= { error };
      });
      await abortable(Promise.race([chunks, stalled]), link.signal);
      if (start === undefined || this.#clock === undefined || this.calls.isBusy(device)) continue;
      this.reports.yielded(this.#clock.now() - start, this.#outbox.keptBytes - before);
    }
  }

  /** Saves and sends every device, with the guest paused, as pieces of `attempt`. Rejects when `signal` aborts: the attempt is given up. */
  async save(attempt: number, signal: AbortSignal, beforeEarly: () => Promise<void> = async () => {}): Promise<void> {
    const { link } = this.#outbox;
    this.#outbox.unlimited();
    await this.#outbox.flush(link);
    this.#void();
    const pieces = new AttemptPieces(attempt, this.#devices, this.#outbox, beforeEarly);
    this.#pieces = pieces;
    this.#lastAttempt = attempt;
    for (const together of sideBySide(this.#devices)) {
      const failed = new AbortController();
      const left = [...together];
      pieces.onFailure = (error) => failed.abort(error);
      const all = together.map((device) => async (either: AbortSignal) => {
        try {
          await this.#save(pieces, device, () => left[0] === device, either);
          left.splice(left.indexOf(device), 1);
          this.#outbox.changed();
        } catch (error) {
          // The first failure ends the saves that run at the same time.
          failed.abort(error);
          throw error;
        }
      });
      await underAll([signal, failed.signal], (either) => Promise.all(all.map((one) => one(either))));
    }
    await abortable(pieces.written(), signal);
    // A large state counts as sent only when it has arrived and is not in this side's buffers; for a small one `switchover` does not wait.
    if (pieces.sentBytes >= MOST_KEPT_BYTES) await abortable(pieces.arrived(), signal);
  }

  /** Per device: how many pieces of the last stop-and-copy were sent. */
  get attemptCounts(): readonly number[] {
    return this.#pieces?.counts ?? this.#devices.map(() => 0);
  }

  /** Saves and sends one device. `isFirst`: the devices before this one have sent all of their state. */
  async #save(
    pieces: AttemptPieces,
    device: MigratableDevice,
    isFirst: () => boolean,
    signal: AbortSignal,
  ): Promise<void> {
    const index = this.#devices.indexOf(device);
    const before = this.sequences[index] as number;
    let bytes = 0;
    const send = async (last: boolean, piece: Uint8Array) => {
      signal.throwIfAborted();
      await pieces.send(index, last, piece, isFirst, signal);
      bytes += piece.byteLength;
    };
    const saving = this.calls.begin(device, 'save', (failed) =>
      this.#each(
        signal,
        failed,
        () => device.save(signal),
        async (chunk) => {
          for (const piece of this.#outbox.pieces(chunk)) await send(false, piece);
          return true;
        },
      ),
    );
    await abortable(saving, signal);
    if (bytes === 0 && before === 0) throw deviceFailed(device, 'save', new Error(NOTHING_SAVED));
    await send(true, new Uint8Array());
  }

  /** Notes that the destination holds no state of a stop-and-copy: the last one was given up, or the next one begins. */
  #void(): void {
    this.#pieces = undefined;
    this.#outbox.attemptBytes = 0;
    this.#outbox.attemptPieces = 0;
  }

  /** Waits until the pieces of pre-copy that were sent have arrived. */
  settle(): Promise<void> {
    return this.#outbox.settle();
  }

  /** Asks whether the pieces of pre-copy have arrived; see `DeviceOutbox.arrival`. */
  arrival(): () => Promise<void> {
    return this.#outbox.arrival();
  }

  /**
   * Handles `loaded`: the destination's device has taken every piece before `sequence`, of pre-copy or of a stop-and-copy. Throws
   * `GODWIT_PROTOCOL` for a piece that was never sent.
   */
  loaded(device: number, sequence: number, attempt = 0): void {
    if (attempt === 0) this.#outbox.loaded(device, sequence);
    else if (attempt === this.#pieces?.attempt) this.#pieces.loaded(device, sequence);
    else if (attempt > this.#lastAttempt) {
      throw new GodwitError('GODWIT_PROTOCOL', `"loaded" names attempt ${attempt}, of which no piece was sent`);
    }
  }

  /**
   * Continues over a new connection. `expected` has, per device, the piece that the destination expects: pieces before it have arrived, the
   * others are sent again; where the bandwidth limit delays them, rounds go on meanwhile. `resets` says how often the destination has reset
   * each device.
   */
  async resume(expected: readonly number[], resets: readonly number[]): Promise<void> {
    // `link` throws when no link was set yet.
    void this.#outbox.link;
    await this.restartReset(resets);
    await this.#outbox.resume(expected);
  }

  /**
   * Restarts the devices that the destination has reset since its last report: these devices yield their state from the first byte again.
   */
  async restartReset(resets: readonly number[]): Promise<void> {
    this.#void();
    for (const [index, known] of this.#outbox.resets.entries()) {
      const told = resets[index] ?? 0;
      if (told < known)
        throw new GodwitError('GODWIT_PROTOCOL', `device ${index} was reset ${known} times, not ${told}`);
      this.#outbox.resets[index] = told;
      if (told > known) await this.#restart(index);
    }
  }

  /** Restarts every device, for a destination that has lost everything. Rejects with `GODWIT_UNSUPPORTED` if one cannot. */
  async restart(): Promise<void> {
    this.#void();
    this.#outbox.resets.fill(0);
    for (const index of this.#devices.keys()) await this.#restart(index);
  }

  /**
   * The reason why the guest must not be paused now (a device's own, or that a device is busy); `undefined` when it may be paused. With
   * `forced` the `precopy` of a busy device is stopped after its present chunk, which is sent without the bandwidth limit; the rest of the
   * state comes with `save`.
   */
  async switchoverBlocker(signal: AbortSignal, forced = false): Promise<string | undefined> {
    const [busy] = this.calls.busy;
    if (forced && busy !== undefined) {
      this.#enough = true;
      this.#outbox.unlimited();
    }
    if (busy !== undefined) return `${busy} has not returned`;
    for (const device of this.#devices) {
      if (device.switchoverBlocker === undefined) continue;
      const asking = this.calls.begin(device, 'tell what blocks', async () => device.switchoverBlocker?.());
      const why = await abortable(asking, signal);
      if (why !== undefined) return `device "${device.id}": ${why}`;
    }
    return undefined;
  }

  async #restart(index: number): Promise<void> {
    const device = this.#devices[index] as MigratableDevice;
    const begun = (this.sequences[index] as number) > 0;
    this.#epochs[index] = (this.#epochs[index] as number) + 1;
    this.#outbox.restart(index);
    if (device.restart !== undefined) {
      const busy = this.calls.isBusy(device);
      const restarting = this.calls.begin(device, 'begin again with', async () => device.restart?.());
      // When the device is busy, its restart follows the pending call, and the round does not wait for the restart.
      if (!busy) await restarting;
      else {
        restarting.catch((error: unknown) => {
          this.#failure ??= { error };
        });
      }
      return;
    }
    if (!begun) return;
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      `the destination has lost the state of device "${device.id}", and the device cannot yield again what it has sent while the guest runs (it has no restart()); start a new migration`,
    );
  }

  /**
   * Writes every chunk in turn, until `write` resolves with false. A failure to write, or the end of the attempt, is not reported as the
   * device's failure.
   */
  async #each(
    signal: AbortSignal,
    failed: (error: unknown) => GodwitError,
    chunks: () => AsyncIterable<Uint8Array> | undefined,
    write: (chunk: Uint8Array) => Promise<boolean>,
  ): Promise<void> {
    let ours: { readonly error: unknown } | undefined;
    try {
      for await (const chunk of chunks() ?? []) {
        if (!isBytes(chunk)) throw new Error(`chunks must be Uint8Arrays, got ${whatIs(chunk)}`);
        try {
          if (!(await write(chunk))) return;
          signal.throwIfAborted();
        } catch (error) {
          ours = { error };
          throw error;
        }
      }
    } catch (error) {
      throw ours === undefined ? failed(error) : ours.error;
    }
  }

  /** Sends a chunk; waits for an acknowledgement when many bytes are kept. */
  async #iterative(link: DeviceLink, index: number, chunk: Uint8Array): Promise<void> {
    this.#outbox.add(index, chunk);
    await this.#outbox.flush(link);
    if (this.#outbox.keptBytes < MOST_KEPT_BYTES) return;
    await this.#outbox.settle();
  }
}

/** Whether a chunk is a `Uint8Array`, also one of another realm, for which `instanceof` is false. */
function isBytes(chunk: unknown): chunk is Uint8Array {
  return Object.prototype.toString.call(chunk) === '[object Uint8Array]';
}

function whatIs(value: unknown): string {
  if (typeof value !== 'object' || value === null) return String(value === null ? 'null' : typeof value);
  return Object.prototype.toString.call(value).slice('[object '.length, -1);
}
