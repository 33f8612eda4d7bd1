import type { MigratableVm } from '../device/migratable-vm.js';
import { sideBySide } from '../device/side-by-side.js';
import { GodwitError } from '../errors.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { DeviceDescription, DeviceFrame, LoadEarlyFrame } from '../protocol/frame.js';
import { MOST_PIECES } from '../protocol/negotiate.js';
import { ArrivalWaits } from './arrival-waits.js';
import { IncomingDevice } from './incoming-device.js';
import type { LoadForecast } from './load-forecast.js';
import type { QueuedPiece } from './state-queue.js';

export interface DeviceLoaderParts {
  readonly vm: MigratableVm;
  readonly described: readonly DeviceDescription[];
  /** Most bytes that are held before they are loaded, of all devices together. */
  readonly maximumBytes: number;
  /** Whether pieces may come in any order, since they come on several streams. Default false. */
  readonly anyOrder?: boolean;
  /** Called with the error of a device that fails while no call of the loader waits for it. */
  readonly onFailure: (error: GodwitError) => void;
  /** Learns how fast devices load, if given. */
  readonly forecast?: LoadForecast;
  /** Called when the `load` of the device with this index has taken a piece. */
  readonly onLoaded: (device: number) => void;
}

/** A device's progress is reported after this many bytes, and when it has loaded everything that has come. */
const REPORT_BYTES = 256 * 1024;

/** Most pieces, of all devices together, that wait for a piece before them. A source of this engine has fewer under way. */
export const MOST_AHEAD = 4096;

/** Loading that has begun before `switchover`. */
interface EarlyLoad {
  readonly attempt: number;
  readonly loading: Promise<void>;
}

/**
 * Collects device state at the destination and loads it. Pieces that come while the guest runs are loaded at once; the rest is loaded
 * after `switchover`, in the order in which the destination's VM lists its devices, or before `switchover` (`loadEarly`) where the
 * state is more than the destination holds.
 */
export class DeviceLoader {
  readonly #parts: DeviceLoaderParts;
  readonly #devices: readonly IncomingDevice[];
  readonly #inOrder: readonly IncomingDevice[];
  /** The devices in the same order, grouped by which are loaded at the same time. */
  readonly #groups: readonly (readonly IncomingDevice[])[];
  /** Per device: bytes that the device has loaded since the last report. */
  readonly #unreported: number[];
  /** Pages that the loads of given-up attempts have written. */
  readonly #owed: DirtyBitmaps;
  readonly #waits: ArrivalWaits;
  #wake: (() => void)[] = [];
  /** Pages that have come since the early load of an attempt began. */
  #overwritten: DirtyBitmaps | undefined;
  /** Number of the last attempt that was given up. */
  #givenUp = 0;
  #early: EarlyLoad | undefined;
  /** Bytes of the pieces whose payload is being read. */
  #reading = { bytes: 0 };
  /** The number of pieces that can come before the waiting pieces have to be counted again. */
  #places = MOST_PIECES;

  constructor(parts: DeviceLoaderParts) {
    const { vm, described } = parts;
    this.#parts = parts;
    const byId = new Map(vm.devices.map((device) => [device.id, device]));
    this.#devices = described.map(({ id, version }, index) => {
      const device = byId.get(id);
      if (device === undefined) throw new GodwitError('GODWIT_INTERNAL', `no device "${id}"`);
      return new IncomingDevice(device, version, (piece) => this.#taken(index, piece));
    });
    this.#waits = new ArrivalWaits(this.#devices);
    const places = new Map(this.#devices.map((incoming) => [incoming.device.id, incoming]));
    this.#inOrder = vm.devices.flatMap(({ id }) => places.get(id) ?? []);
    this.#groups = sideBySide(this.#inOrder.map(({ device }) => device)).map((together) =>
      together.flatMap(({ id }) => places.get(id) ?? []),
    );
    this.#unreported = described.map(() => 0);
    this.#owed = new DirtyBitmaps(vm.memory);
  }

  /** Per device: the sequence of the next piece that is expected while the guest runs at the source. */
  get sequences(): readonly number[] {
    return this.#devices.map(({ nextSequence }) => nextSequence);
  }

  /** Per device: how often it was reset. */
  get resets(): readonly number[] {
    return this.#devices.map(({ resets }) => resets);
  }

  /** Per device: every piece before this sequence was taken by `load`. */
  get loaded(): readonly number[] {
    return this.#devices.map(({ loadedSequence }) => loadedSequence);
  }

  /** Bytes that have come, or are being read, and are not loaded. */
  get heldBytes(): number {
    return this.#devices.reduce((sum, { pendingBytes }) => sum + pendingBytes, this.#reading.bytes);
  }

  /** The sequence up to which the device with this index was loaded, in pre-copy (attempt 0) or in the attempt that is loaded early. */
  progress(index: number): { readonly attempt: number; readonly sequence: number } {
    const incoming = this.#devices[index];
    const ofAttempt = incoming?.loadedOfAttempt ?? 0;
    if (this.#early !== undefined && ofAttempt > 0) return { attempt: this.#early.attempt, sequence: ofAttempt };
    return { attempt: 0, sequence: incoming?.loadedSequence ?? 0 };
  }

  /** Pages that the source must send again, since a `load` has written them. The set is complete once `prepared` has resolved. */
  get owed(): DirtyBitmaps {
    return this.#owed;
  }

  /**
   * Checks a frame before its payload is allocated. Returns false for a void piece, whose payload is thrown away. Throws
   * `GODWIT_OUT_OF_RANGE`, `GODWIT_PROTOCOL` or `GODWIT_LIMIT_EXCEEDED`.
   */
  admit(frame: DeviceFrame, payloadBytes: number): boolean {
    const incoming = this.#devices[frame.device];
    if (incoming === undefined) {
      throw new GodwitError(
        'GODWIT_OUT_OF_RANGE',
        `a "device" frame names device ${frame.device}; there are ${this.#devices.length}`,
      );
    }
    const { id, maximumStateBytes } = incoming.device;
    if (this.#isVoid(frame, incoming)) return false;
    this.#checkSequence(frame, incoming);
    if (maximumStateBytes !== undefined && incoming.stateBytes + payloadBytes > maximumStateBytes) {
      throw new GodwitError(
        'GODWIT_LIMIT_EXCEEDED',
        `device "${id}": its state is longer than the ${maximumStateBytes} bytes that it takes at the destination (its maximumStateBytes)`,
      );
    }
    if (!this.#hasPlace() && (payloadBytes > 0 || !frame.last)) {
      throw new GodwitError(
        'GODWIT_LIMIT_EXCEEDED',
        `device "${id}": more than ${MOST_PIECES} pieces of state wait to be loaded`,
      );
    }
    const held = this.heldBytes + payloadBytes;
    if (held > this.#parts.maximumBytes) {
      throw new GodwitError(
        'GODWIT_LIMIT_EXCEEDED',
        `device "${id}": more than ${this.#parts.maximumBytes} bytes of state wait to be loaded, though the source was told this limit (maximumDeviceState)`,
      );
    }
    return true;
  }

  /** Takes a place for one more piece. Returns false when `MOST_PIECES` wait. */
  #hasPlace(): boolean {
    if (this.#places <= 0) this.#places = MOST_PIECES - this.#devices.reduce((sum, one) => sum + one.pendingPieces, 0);
    return this.#places-- > 0;
  }

  /** Admits a piece (or throws), reads its payload and takes it; skips a void piece. Nothing is taken once `isOver`. */
  async receive(
    frame: DeviceFrame,
    payloadBytes: number,
    stream: { readPayload(into: readonly Uint8Array[]): Promise<void>; skipPayload(): Promise<void> },
    isOver: () => boolean,
  ): Promise<void> {
    if (!this.admit(frame, payloadBytes)) {
      if (payloadBytes > 0) await stream.skipPayload();
      return;
    }
    const chunk = new Uint8Array(payloadBytes);
    const reading = this.#reading;
    reading.bytes += payloadBytes;
    try {
      if (payloadBytes > 0) await stream.readPayload([chunk]);
    } finally {
      reading.bytes -= payloadBytes;
    }
    if (!isOver()) this.accept(frame, chunk);
  }

  /** Takes the payload of a frame that `admit` has checked. A piece that was voided since is thrown away. */
  accept(frame: DeviceFrame, bytes: Uint8Array): void {
    const { device, attempt, sequence, last } = frame;
    const incoming = this.#devices[device] as IncomingDevice;
    if (this.#isVoid(frame, incoming)) return;
    this.#checkSequence(frame, incoming);
    if (attempt > 0) incoming.hold(attempt, { bytes, sequence, last });
    else {
      const begins = incoming.loading === undefined;
      if (incoming.pendingBytes === 0) this.#parts.forecast?.begun(device);
      incoming.take({ bytes, sequence, last });
      if (begins) this.#watch(incoming);
    }
    this.#waits.check();
  }

  /** Loads all that is not loaded yet. Rejects with `GODWIT_PROTOCOL` unless every device has its last piece of this attempt. */
  async loadAll(attempt: number): Promise<void> {
    const missing = this.#inOrder.find((incoming) => !incoming.isComplete(attempt));
    if (missing !== undefined) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `"switchover" came before the end of the state of device "${missing.device.id}"`,
      );
    }
    if (this.#early?.attempt !== attempt) return this.#loadGroups(attempt, () => 0);
    await this.#early.loading;
    if (this.#givenUp < attempt) this.#checkOverwritten();
  }

  /**
   * Notes that a round with these pages has ended. If a load has begun, the pages may have overwritten what the load wrote to guest
   * memory.
   */
  pagesCame(pages: DirtyBitmaps): void {
    if (this.#early === undefined || pages.isEmpty()) return;
    this.#overwritten ??= new DirtyBitmaps(pages);
    this.#overwritten.or(pages);
  }

  /** Throws `GODWIT_DEVICE_FAILED` when a page that a load has written came from the source after that. */
  #checkOverwritten(): void {
    const pages = this.#overwritten;
    if (pages === undefined) return;
    for (const { device } of this.#inOrder) {
      const written = device.loadWrites?.();
      const isSafe =
        written !== undefined &&
        [...written].every(({ block, firstPage, pageCount }) => pages.at(block).countRange(firstPage, pageCount) === 0);
      if (isSafe) continue;
      throw new GodwitError(
        'GODWIT_DEVICE_FAILED',
        `the state of the devices is larger than the destination holds (${this.#parts.maximumBytes} bytes), so that device "${device.id}" was ` +
          `loaded before the last pages came, and these overwrite what its load ${written === undefined ? 'may have' : 'has'} written to guest ` +
          'memory: saving a device writes guest memory too. Raise maximumDeviceState' +
          (written === undefined ? ', or tell with loadWrites() what load writes' : ''),
      );
    }
  }

  /**
   * Begins to load the state of an attempt before all of it has come: the source has no room for the next piece of `device`. Throws
   * `GODWIT_LIMIT_EXCEEDED` when a device that the source saves later is loaded before `device`.
   */
  loadEarly({ attempt, device, deviceSequences }: Omit<LoadEarlyFrame, 'type'>): Promise<void> {
    this.checkList('loadEarly', deviceSequences);
    const waiting = this.#devices[device];
    if (waiting === undefined || this.#early?.attempt === attempt) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        waiting === undefined
          ? `"loadEarly" names device ${device}; there are ${this.#devices.length}`
          : `"loadEarly" came twice in attempt ${attempt}`,
      );
    }
    for (const together of this.#groups) {
      if (together.includes(waiting)) break;
      const later = together.find((one) => this.#devices.indexOf(one) > device && !one.isComplete(attempt));
      if (later === undefined) continue;
      throw new GodwitError(
        'GODWIT_LIMIT_EXCEEDED',
        `device "${waiting.device.id}" saves more than the destination holds (${this.#parts.maximumBytes} bytes), and cannot be loaded before ` +
          `"${later.device.id}", which the source saves after it; list the devices in the same order on both sides, or raise maximumDeviceState`,
      );
    }
    const indexes = new Map(this.#devices.map((incoming, index) => [incoming, index]));
    const loading = this.#loadGroups(attempt, (incoming) => deviceSequences[indexes.get(incoming) ?? 0] ?? 0);
    this.#early = { attempt, loading };
    loading.catch((error: GodwitError) => {
      if (this.#givenUp < attempt) this.#parts.onFailure(error);
    });
    return loading;
  }

  async #loadGroups(attempt: number, precopyPieces: (incoming: IncomingDevice) => number): Promise<void> {
    for (const together of this.#groups) {
      // A failure is thrown only when all loads are over: the others would otherwise go on behind it.
      const outcomes = await Promise.allSettled(together.map((incoming) => incoming.commit(precopyPieces(incoming))));
      // The attempt was given up meanwhile: nothing more of its state is loaded, and a rejected load of it is no failure.
      if (this.#givenUp >= attempt) return;
      for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
    }
  }

  /**
   * Resolves once the pieces before `sequences` of pre-copy (attempt 0) or of a stop-and-copy have come; never, if these pieces become
   * void first.
   */
  arrived(attempt: number, sequences: readonly number[]): Promise<void> {
    this.checkList('awaitPieces', sequences);
    const resets = this.resets;
    return this.#waits.until(
      attempt,
      // A piece that a reset has voided meanwhile is not waited for.
      (incoming, index) =>
        incoming.arrived(attempt) >= (sequences[index] as number) || incoming.resets > (resets[index] as number),
    );
  }

  /**
   * Resolves once all state of the attempt has come, and the pieces of pre-copy before `sequences`; never, if the attempt is given up
   * first.
   */
  complete(attempt: number, sequences: readonly number[]): Promise<void> {
    this.checkList('switchover', sequences);
    return this.#waits.until(attempt, (incoming, index) => incoming.isComplete(attempt, sequences[index]));
  }

  /** Resolves when each device has loaded every piece before its sequence, and its `prepared` has resolved. */
  async prepared(sequences: readonly number[]): Promise<void> {
    const taken = () => new Promise<void>((resolve) => this.#wake.push(resolve));
    await Promise.all(this.#devices.map((incoming, index) => incoming.prepared(sequences[index] ?? 0, taken)));
  }

  /** Voids the state of an attempt that was given up. Throws `GODWIT_DEVICE_FAILED` when a device cannot go back. */
  goBack(attempt: number): void {
    this.#givenUp = attempt;
    this.#early = undefined;
    this.#overwritten = undefined;
    // Pieces of the attempt that are still being read are void, and their bytes do not count against the next attempt.
    this.#reading = { bytes: 0 };
    this.#waits.forgetAttempt();
    for (const incoming of this.#devices) incoming.goBack(this.#owed, this.#parts.onFailure);
    this.#waits.check();
  }

  /**
   * Begins another connection: pieces that have overtaken a lost one come again, and no answer is awaited over the previous connection.
   */
  connectionBegins(): void {
    this.#waits.forget();
    for (const incoming of this.#devices) incoming.forgetAhead();
  }

  /** Resolves when no call into a device is pending. */
  async idle(): Promise<void> {
    await Promise.all(this.#devices.map((incoming) => incoming.idle()));
  }

  /** Ends the loads that wait for more state, with `error`. */
  fail(error: GodwitError): void {
    for (const incoming of this.#devices) incoming.fail(error);
  }

  /** Checks a list that has a number for each device. Throws `GODWIT_PROTOCOL`. */
  checkList(type: string, list: readonly number[]): void {
    if (list.length === this.#devices.length) return;
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `"${type}" has numbers for ${list.length} devices; there are ${this.#devices.length}`,
    );
  }

  #isVoid(frame: DeviceFrame, incoming: IncomingDevice): boolean {
    return (frame.attempt > 0 && frame.attempt <= this.#givenUp) || incoming.isVoid(frame);
  }

  #checkSequence(frame: DeviceFrame, incoming: IncomingDevice): void {
    const { attempt, sequence, last, resets = incoming.resets } = frame;
    const { id } = incoming.device;
    const name = `${last ? 'the last ' : ''}piece ${sequence}`;
    if (attempt === 0 && resets > incoming.resets) {
      throw new GodwitError(
        'GODWIT_PROTOCOL',
        `device "${id}": ${name} was sent after ${resets} resets; there were ${incoming.resets}`,
      );
    }
    if (this.#parts.anyOrder === true) {
      if (!incoming.isMissing(frame) || (attempt === 0 && last)) {
        throw new GodwitError('GODWIT_PROTOCOL', `device "${id}": ${name} of attempt ${attempt} is not expected`);
      }
      if (sequence === incoming.arrived(attempt)) return;
      const ahead = this.#devices.reduce((sum, { aheadCount }) => sum + aheadCount, 0);
      if (ahead < MOST_AHEAD) return;
      throw new GodwitError(
        'GODWIT_LIMIT_EXCEEDED',
        `device "${id}": ${name} of attempt ${attempt} would be the ${MOST_AHEAD + 1}th that waits for one before it`,
      );
    }
    const expected = incoming.expected(attempt);
    if (expected === sequence && !(attempt === 0 && last)) return;
    throw new GodwitError(
      'GODWIT_PROTOCOL',
      `device "${id}": expected ${expected === undefined ? 'no further state' : `piece ${expected}`} of attempt ${attempt}, got ${name}`,
    );
  }

  /** Reports the failure of a load that has just begun, while the guest runs at the source. */
  #watch(incoming: IncomingDevice): void {
    const { loading } = incoming;
    // A load that was voided since also rejects, which is no failure of the device.
    loading?.catch((error: GodwitError) => {
      if (incoming.loading === loading) this.#parts.onFailure(error);
    });
  }

  #taken(index: number, { attempt, bytes: { byteLength } }: QueuedPiece): void {
    for (const wake of this.#wake.splice(0)) wake();
    const incoming = this.#devices[index];
    if (incoming === undefined || (attempt > 0 && this.#early === undefined)) return;
    if (attempt === 0) this.#parts.forecast?.took(index, byteLength, incoming.pendingBytes > 0);
    const unreported = (this.#unreported[index] ?? 0) + byteLength;
    const report = incoming.pendingBytes === 0 || unreported >= REPORT_BYTES;
    this.#unreported[index] = report ? 0 : unreported;
    if (report) this.#parts.onLoaded(index);
  }
}
