import { GodwitError } from '@godwit/core';
import type { VfioDevice } from '../device/vfio-device.js';
import { DataSession } from './data-session.js';
import type { DeviceMigration, PrecopyInfo } from './device-migration.js';
import { isSaving, type MigrationState } from './migration-state.js';
import { stateHeader } from './state-header.js';
import { fromTheBeginning, RECORD_BYTES } from './state-records.js';
import type { Turns } from './turns.js';

/** The state to which a device changes from each saving state when its session ends and it is to go on running, or stay stopped. */
const WITHOUT_SESSION: Readonly<Partial<Record<MigrationState, MigrationState>>> = {
  PRE_COPY: 'RUNNING',
  PRE_COPY_P2P: 'RUNNING_P2P',
  STOP_COPY: 'STOP',
};

/**
 * The source's side of a device: the session from which its state is read, from the first `precopy` to the end of `save`.
 *
 * A guest that resets its device (a function-level reset) ends the session without notice: the device is then in RUNNING, and reads
 * return ENODEV. The session is closed, the next one begins with the state's first byte, and the destination is told to begin anew.
 */
export class StateSaving {
  readonly #id: string;
  readonly #kind: string;
  readonly #device: VfioDevice;
  readonly #migration: DeviceMigration;
  readonly #turns: Turns;
  #session: DataSession | null = null;
  /** True while nothing of the session was yielded. */
  #fresh = false;
  /** True when `precopy` has yielded state since the last `restart`: the destination may have loaded it. */
  #streamed = false;
  /** True when a `save` has read from the session: state that it has read and not yielded is lost. */
  #saved = false;
  /** True when a session that the destination has loaded was ended here: the destination must be told before a new one is sent. */
  #mustRestart = false;

  constructor(id: string, kind: string, device: VfioDevice, migration: DeviceMigration, turns: Turns) {
    this.#id = id;
    this.#kind = kind;
    this.#device = device;
    this.#migration = migration;
    this.#turns = turns;
  }

  /** Whether there is a session, also one that a reset of the device has ended. */
  get begun(): boolean {
    return this.#session !== null;
  }

  /** Whether the device is in pre-copy, with a session of this object. */
  streams(): boolean {
    return this.#session !== null && isPrecopy(this.#migration.state());
  }

  /** The estimates of pre-copy; null when the device is not in pre-copy. */
  precopyInfo(): PrecopyInfo | null {
    const session = this.#session;
    if (session === null || !this.streams()) return null;
    try {
      return this.#migration.precopyInfo(session.fd);
    } catch (error) {
      // The guest has reset the device between two calls.
      if (!this.streams()) return null;
      throw error;
    }
  }

  /** Yields as much as there is at the call: with more, a busy device would keep the round from ending. */
  async *precopy(state: MigrationState): AsyncGenerator<Uint8Array> {
    const session = await this.#enter(state);
    if (session === null) return;
    const head = this.#head();
    this.#streamed = true;
    if (head !== null) yield head;
    const info = this.precopyInfo();
    for (let left = info === null ? 0 : info.initialBytes + info.dirtyBytes; left > 0; ) {
      const piece = await this.#unlessReset(session);
      if (piece === null) return;
      left -= piece.byteLength - RECORD_BYTES;
      yield piece;
    }
  }

  /** Yields the rest of the state, with the device stopped. Ends early when `signal` aborts. */
  async *save(signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    // The device is already in STOP_COPY when pre-copy was used and the set has stopped its devices.
    const session = await this.#enter('STOP_COPY', signal);
    if (session === null) return;
    this.#saved = true;
    const head = this.#head();
    if (head !== null) yield head;
    for (;;) {
      const piece = await unlessAborted(session, signal);
      if (piece === null) return;
      yield piece;
    }
  }

  /**
   * Takes the device to a state; a session that begins on the way is kept. To be called within a turn, as all methods after this one.
   */
  async moveTo(state: MigrationState): Promise<void> {
    const fd = await this.#migration.moveTo(state);
    if (fd === null) return;
    // There may still be a session when the guest has just reset the device.
    const ended = this.#session;
    this.#session = new DataSession(this.#device.port, fd, this.#id);
    this.#fresh = true;
    this.#saved = false;
    await ended?.close();
  }

  /** Closes a session that a reset of the device has ended. */
  async closeLost(): Promise<void> {
    if (this.#session !== null && !isSaving(this.#migration.state())) await this.close();
  }

  async close(): Promise<void> {
    const session = this.#session;
    this.#session = null;
    this.#saved = false;
    await session?.close();
  }

  /** Changes the state, which ends reads that wait for data, and then closes the session, which the destination may have loaded. */
  async endBy(move: () => Promise<unknown>): Promise<void> {
    this.#mustRestart ||= this.#session !== null && this.#streamed;
    await this.#endBy(move);
  }

  /** Ends the session, if there is one; the device stays running or stopped. The next session begins with the first byte. */
  async release(): Promise<void> {
    await this.closeLost();
    this.#mustRestart = false;
    this.#streamed = false;
    if (this.#session === null) return;
    const to = WITHOUT_SESSION[this.#migration.state()] ?? 'RUNNING';
    await this.#endBy(() => this.#migration.moveTo(to));
  }

  /** Takes the device into a saving state; resolves with the session, or with null when `signal` aborted before it began. */
  #enter(state: MigrationState, signal?: AbortSignal): Promise<DataSession | null> {
    return this.#turns.take(async () => {
      if (signal?.aborted === true) return null;
      await this.closeLost();
      await this.#endGivenUpSave();
      if (this.#session === null) await this.#begin(state);
      else await this.moveTo(state);
      return this.#session;
    });
  }

  /**
   * Ends the session after a given-up `save`: the device does not repeat what was read. A new session begins with the first byte, for
   * which the destination must be told if it has loaded the old one.
   */
  async #endGivenUpSave(): Promise<void> {
    this.#mustRestart ||= this.#saved && this.#streamed;
    if (this.#mustRestart) {
      throw new GodwitError(
        'GODWIT_INVALID_STATE',
        `${this.#id} must be told to restart before it is saved again: its data session ended when a stop-and-copy was given up, and another one begins with its first byte`,
      );
    }
    if (this.#saved) await this.#endBy(() => this.#migration.moveTo('STOP'));
  }

  async #begin(state: MigrationState): Promise<void> {
    // An earlier user has left a session behind, whose descriptor is lost, so that it has to be ended first.
    const without = WITHOUT_SESSION[state];
    if (without !== undefined && this.#migration.state() === state) await this.#migration.moveTo(without);
    await this.moveTo(state);
    if (this.#session !== null) return;
    throw new GodwitError('GODWIT_DEVICE_FAILED', `${this.#id} went to ${state} without a descriptor for its state`);
  }

  async #endBy(move: () => Promise<unknown>): Promise<void> {
    const session = this.#session;
    this.#session = null;
    this.#saved = false;
    try {
      await move();
    } finally {
      await session?.close();
    }
  }

  /** The header of a session; null once it was returned. */
  #head(): Uint8Array | null {
    if (!this.#fresh) return null;
    this.#fresh = false;
    return this.#streamed ? fromTheBeginning() : stateHeader(this.#kind);
  }

  /** Resolves with the next piece, or with null at the temporary end and when the guest has reset the device. */
  async #unlessReset(session: DataSession): Promise<Uint8Array | null> {
    try {
      return await session.read('pre-copy');
    } catch (error) {
      if (session !== this.#session || !isSaving(this.#migration.state())) return null;
      throw error;
    }
  }
}

function isPrecopy(state: MigrationState): boolean {
  return state === 'PRE_COPY' || state === 'PRE_COPY_P2P';
}

/**
 * Resolves with the next piece, or with null at the end and once `signal` aborts. A read that then still waits for the device ends when
 * the device leaves STOP_COPY, and the session is closed after it.
 */
async function unlessAborted(session: DataSession, signal: AbortSignal | undefined): Promise<Uint8Array | null> {
  if (signal?.aborted === true) return null;
  const reading = session.read('stop-copy');
  if (signal === undefined) return reading;
  let onAbort = (): void => undefined;
  const aborted = new Promise<null>((resolve) => {
    onAbort = () => resolve(null);
    signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([reading, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
