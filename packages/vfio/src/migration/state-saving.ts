import { GodwitError } from '@godwit/core';
import type { VfioDevice } from '../device/vfio-device.js';
import { DataSession } from './data-session.js';
import type { DeviceMigration, PrecopyInfo } from './device-migration.js';
import { isSaving, type MigrationState } from './migration-state.js';
import { stateHeader } from './state-header.js';
import { fromTheBeginning, RECORD_BYTES } from './state-records.js';
import type { Turns } from './turns.js';

/** Where a device goes from a state of saving when its session ends and it is to run, or stand still, as before. */
const WITHOUT_SESSION: Readonly<Partial<Record<MigrationState, MigrationState>>> = {
  PRE_COPY: 'RUNNING',
  PRE_COPY_P2P: 'RUNNING_P2P',
  STOP_COPY: 'STOP',
};

/**
 * The source's side of a device: the session that its state is read from, from the first `precopy` to the end of `save`.
 *
 * A guest that resets its device (a function-level reset) ends the session behind our back: the device is then in RUNNING, and reads say
 * ENODEV. The session is closed, the next one begins with the state's first byte, and the destination is told to begin anew.
 */
export class StateSaving {
  readonly #id: string;
  readonly #kind: string;
  readonly #device: VfioDevice;
  readonly #migration: DeviceMigration;
  readonly #turns: Turns;
  #session: DataSession | null = null;
  /** Nothing of the session has been yielded. */
  #fresh = false;
  /** `precopy` has yielded state since the last `restart`: the destination may have followed. */
  #streamed = false;
  /** A `save` has read from the session: what it did not yield is gone with it. */
  #saved = false;
  /** A session that the destination has followed was ended here, and a new one makes no sense to it before it was told. */
  #mustRestart = false;

  constructor(id: string, kind: string, device: VfioDevice, migration: DeviceMigration, turns: Turns) {
    this.#id = id;
    this.#kind = kind;
    this.#device = device;
    this.#migration = migration;
    this.#turns = turns;
  }

  /** There is a session, if only one that a reset of the device has ended. */
  get begun(): boolean {
    return this.#session !== null;
  }

  /** Whether the device is in pre-copy, with a session of ours. */
  streams(): boolean {
    return this.#session !== null && isPrecopy(this.#migration.state());
  }

  /** What pre-copy still has; null when the device is in none. */
  precopyInfo(): PrecopyInfo | null {
    const session = this.#session;
    if (session === null || !this.streams()) return null;
    try {
      return this.#migration.precopyInfo(session.fd);
    } catch (error) {
      // Reset between two calls of ours.
      if (!this.streams()) return null;
      throw error;
    }
  }

  /** As much as there is now, and no more: a busy device would keep the round from ending. */
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

  /** The rest, with the device stopped. Ends early when `signal` aborts. */
  async *save(signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    // In STOP_COPY already when pre-copy was used and the set has stopped its devices.
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

  /** Takes the device to a state; a session that begins on the way is kept. Within a turn, as all that follows. */
  async moveTo(state: MigrationState): Promise<void> {
    const fd = await this.#migration.moveTo(state);
    if (fd === null) return;
    // There may be one: the guest has reset the device a moment ago.
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

  /** Changes the state, which ends reads that wait for data, and then closes the session, which the destination may have followed. */
  async endBy(move: () => Promise<unknown>): Promise<void> {
    this.#mustRestart ||= this.#session !== null && this.#streamed;
    await this.#endBy(move);
  }

  /** Ends the session, if there is one, with the device left running or standing as it is. The next one begins with the first byte. */
  async release(): Promise<void> {
    await this.closeLost();
    this.#mustRestart = false;
    this.#streamed = false;
    if (this.#session === null) return;
    const to = WITHOUT_SESSION[this.#migration.state()] ?? 'RUNNING';
    await this.#endBy(() => this.#migration.moveTo(to));
  }

  /** Into a state of saving, with the session that belongs to it; null when that was given up before it began. */
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

  /** What a `save` that was given up has read is not read again: a new session has it, unless the destination followed this one. */
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
    // A session that somebody left behind: its descriptor is lost, so it has to end first.
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

  /** What a session begins with; null once it was given. */
  #head(): Uint8Array | null {
    if (!this.#fresh) return null;
    this.#fresh = false;
    return this.#streamed ? fromTheBeginning() : stateHeader(this.#kind);
  }

  /** The next piece; null at the temporary end, and when the guest has reset the device. */
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
 * The next piece; null at the end, and once `signal` aborts. A read that waits for the device is left to itself then: it ends
 * when the device leaves STOP_COPY, and the session is closed after it.
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
