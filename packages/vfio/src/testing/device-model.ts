import { Errno, StructBuffer } from '@godwit/linux/unstable';
import {
  DeviceFeature,
  VFIO_DEVICE_FEATURE,
  VFIO_FEATURE_MIG_DATA_SIZE,
  VFIO_FEATURE_MIG_STATE,
  VFIO_FEATURE_MIGRATION,
  VFIO_PRECOPY_INFO,
} from '../layouts/device-feature.js';
import { Vfio } from '../layouts/vfio-setup.js';
import { isSaving, type MigrationState, migrationPath, STATE_NUMBER, stateOf } from '../migration/migration-state.js';
import { checkFeature } from './feature-checks.js';
import { LoggingModel } from './logging-model.js';
import { copyFromUser, copyToUser } from './user-memory.js';

/** The features and the faults of a `DeviceModel`. */
export interface DeviceModelOptions {
  /** Flags of VFIO_DEVICE_FEATURE_MIGRATION; with 0 the device cannot migrate. Default 7, all of them. */
  readonly migrationFlags?: number;
  /** Whether the device logs its DMA; default false. */
  readonly logging?: boolean;
  /** Whether pre-copy's temporary stream ends with ENOMSG, as documented; default true. mtty returns 0. */
  readonly endsWithNoMessage?: boolean;
  /** Bytes that pre-copy's estimate has beyond the actual ones; default 0. Estimates may be wrong. */
  readonly precopySurplus?: number;
  /** The errno with which VFIO_DEVICE_FEATURE_MIG_DATA_SIZE fails: ENOTTY before Linux 6.2. */
  readonly dataSizeFails?: number;
  /** Whether the kernel knows VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2; default true. */
  readonly precopyInfoV2?: boolean;
  /** The number of resets that fail with EAGAIN, since the device's lock is held, before one succeeds; default 0. */
  readonly lockedResets?: number;
  /** The device fails once on the way into `state`, and is then in `leaves`. */
  readonly failInto?: { readonly state: MigrationState; readonly leaves: MigrationState };
}

/** Header that the model puts before its state, so that it can refuse a foreign state. */
const HEADER_BYTES = 8;

/**
 * A migratable device as the kernel shows it: the state machine, one data session at a time, and a state of some bytes,
 * which it accepts only as a whole.
 *
 * @example
 * let sessions = 100;
 * const model = new DeviceModel({ logging: true }, () => sessions++);
 * expect(model.state).toBe('RUNNING');
 */
export class DeviceModel {
  /** The state that is migrated. */
  memory: Uint8Array = new Uint8Array();
  state: MigrationState = 'RUNNING';
  resets = 0;
  /** Every state in which the device has been, in order. */
  readonly visited: MigrationState[] = [];
  readonly logging: LoggingModel | null;
  /** Called when a state is entered. */
  onState: (state: MigrationState) => void = () => {};
  readonly #options: DeviceModelOptions;
  readonly #newSession: () => number;
  #failInto: DeviceModelOptions['failInto'];
  /** True when VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 was set: flags are filled in. */
  #fillsInFlags = false;
  /** The end of the initial part of the stream. */
  #initialEnd = HEADER_BYTES;
  #reinitialized = false;
  #lockedResets: number;
  /** The session's descriptor, how far it was read, and what was written into it. */
  #session: { readonly fd: number; read: number; written: Uint8Array } | null = null;

  constructor(options: DeviceModelOptions, newSession: () => number) {
    this.#options = options;
    this.#failInto = options.failInto;
    this.#lockedResets = options.lockedResets ?? 0;
    this.#newSession = newSession;
    this.logging = options.logging === true ? new LoggingModel() : null;
  }

  /** Reconfigures the device: this many more bytes of its state are initial bytes (VFIO_PRECOPY_INFO_REINIT). */
  reinitialize(bytes: number): void {
    this.#initialEnd += bytes;
    this.#reinitialized = true;
  }

  /**
   * VFIO_DEVICE_RESET, or a function-level reset by the guest: its session is over, and the session's descriptor is
   * useless.
   */
  reset(): void {
    this.resets++;
    this.#session = null;
    this.#initialEnd = HEADER_BYTES;
    this.memory = new Uint8Array();
    this.#enter('RUNNING');
  }

  /** Answers a call to the device: the result, or minus errno. */
  ioctl(request: number, argument: bigint): number {
    if (request === Vfio.VFIO_DEVICE_RESET) {
      if (this.#lockedResets > 0) {
        this.#lockedResets--;
        return -Errno.EAGAIN;
      }
      this.reset();
      return 0;
    }
    return request === DeviceFeature.VFIO_DEVICE_FEATURE ? this.#feature(argument) : -Errno.ENOTTY;
  }

  /** An ioctl on the session's descriptor. */
  sessionIoctl(fd: number, request: number, argument: bigint): number {
    if (request !== DeviceFeature.VFIO_MIG_GET_PRECOPY_INFO) return -Errno.ENOTTY;
    if (this.#session?.fd !== fd) return -Errno.ENODEV;
    if (this.state !== 'PRE_COPY' && this.state !== 'PRE_COPY_P2P') return -Errno.EINVAL;
    const bytes = copyFromUser(argument, VFIO_PRECOPY_INFO.size);
    if (bytes === null) return -Errno.EFAULT;
    const info = new StructBuffer(VFIO_PRECOPY_INFO, bytes);
    if (info.get('argsz') < VFIO_PRECOPY_INFO.size) return -Errno.EINVAL;
    // Until the feature is set, a kernel does not fill in the flags, whose values have no meaning.
    if (this.#fillsInFlags) info.set('flags', this.#reinitialized ? DeviceFeature.VFIO_PRECOPY_INFO_REINIT : 0);
    else info.set('flags', DeviceFeature.VFIO_PRECOPY_INFO_REINIT);
    this.#reinitialized = false;
    info
      .set('initial_bytes', Math.max(0, this.#initialEnd - this.#session.read))
      .set('dirty_bytes', this.#options.precopySurplus ?? 0);
    return copyToUser(argument, bytes) ? 0 : -Errno.EFAULT;
  }

  /** Reads the state from a data session: the number of bytes, 0 at the end of the state, or minus errno. */
  read(fd: number, buffer: Uint8Array): number {
    const session = this.#session;
    if (session?.fd !== fd || !isSaving(this.state)) return -Errno.ENODEV;
    const stream = this.state === 'STOP_COPY' ? this.#stream() : this.#stream().subarray(0, this.#initialEnd);
    const piece = stream.subarray(session.read, session.read + Math.min(buffer.byteLength, 7));
    if (piece.byteLength === 0 && this.state !== 'STOP_COPY') {
      return this.#options.endsWithNoMessage === false ? 0 : -Errno.ENOMSG;
    }
    buffer.set(piece);
    session.read += piece.byteLength;
    return piece.byteLength;
  }

  /** Writes state to a data session: the number of bytes, or minus errno. */
  write(fd: number, bytes: Uint8Array): number {
    const session = this.#session;
    if (session?.fd !== fd || this.state !== 'RESUMING') return -Errno.ENODEV;
    const taken = bytes.subarray(0, 5);
    const written = new Uint8Array(session.written.byteLength + taken.byteLength);
    written.set(session.written);
    written.set(taken, session.written.byteLength);
    session.written = written;
    const expected = expectedBytes(written);
    return expected !== null && written.byteLength > expected ? -Errno.ENOMEM : taken.byteLength;
  }

  #feature(argument: bigint): number {
    const head = copyFromUser(argument, VFIO_DEVICE_FEATURE.size);
    if (head === null) return -Errno.EFAULT;
    const feature = new StructBuffer(VFIO_DEVICE_FEATURE, head);
    const [argsz, flags] = [feature.get('argsz'), feature.get('flags')];
    const {
      VFIO_DEVICE_FEATURE_GET: GET,
      VFIO_DEVICE_FEATURE_SET: SET,
      VFIO_DEVICE_FEATURE_PROBE: PROBE,
    } = DeviceFeature;
    if (argsz < VFIO_DEVICE_FEATURE.size || (flags & ~(0xffff | GET | SET | PROBE)) !== 0) return -Errno.EINVAL;
    if ((flags & GET) !== 0 && (flags & SET) !== 0 && (flags & PROBE) === 0) return -Errno.EINVAL;
    if ((flags & (GET | SET)) === 0) return -Errno.EINVAL;
    const data = argument + BigInt(VFIO_DEVICE_FEATURE.size);
    const operations = { flags, room: argsz - VFIO_DEVICE_FEATURE.size };
    const migrates = (this.#options.migrationFlags ?? 7) !== 0;
    switch (flags & 0xffff) {
      case DeviceFeature.VFIO_DEVICE_FEATURE_MIGRATION:
        return migrates ? this.#capabilities(operations, data) : -Errno.ENOTTY;
      case DeviceFeature.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
        return migrates ? this.#stateFeature(operations, data) : -Errno.ENOTTY;
      case DeviceFeature.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
        if (this.#options.dataSizeFails !== undefined) return -this.#options.dataSizeFails;
        return migrates ? this.#dataSize(operations, data) : -Errno.ENOTTY;
      case DeviceFeature.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2: {
        if (!migrates || this.#options.precopyInfoV2 === false) return -Errno.ENOTTY;
        const checked = checkFeature(flags, SET, operations.room, 0);
        if (checked === 1) this.#fillsInFlags = true;
        return Math.min(checked, 0);
      }
      default:
        return this.logging?.feature(flags, operations.room, data) ?? -Errno.ENOTTY;
    }
  }

  #capabilities({ flags, room }: Operations, data: bigint): number {
    const checked = checkFeature(flags, DeviceFeature.VFIO_DEVICE_FEATURE_GET, room, VFIO_FEATURE_MIGRATION.size);
    if (checked !== 1) return checked;
    const payload = new StructBuffer(VFIO_FEATURE_MIGRATION).set('flags', this.#options.migrationFlags ?? 7);
    return copyToUser(data, payload.bytes) ? 0 : -Errno.EFAULT;
  }

  #dataSize({ flags, room }: Operations, data: bigint): number {
    const checked = checkFeature(flags, DeviceFeature.VFIO_DEVICE_FEATURE_GET, room, VFIO_FEATURE_MIG_DATA_SIZE.size);
    if (checked !== 1) return checked;
    const payload = new StructBuffer(VFIO_FEATURE_MIG_DATA_SIZE).set('stop_copy_length', this.#stream().byteLength);
    return copyToUser(data, payload.bytes) ? 0 : -Errno.EFAULT;
  }

  #stateFeature({ flags, room }: Operations, data: bigint): number {
    const { VFIO_DEVICE_FEATURE_GET: GET, VFIO_DEVICE_FEATURE_SET: SET } = DeviceFeature;
    const checked = checkFeature(flags, GET | SET, room, VFIO_FEATURE_MIG_STATE.size);
    if (checked !== 1) return checked;
    const bytes = copyFromUser(data, VFIO_FEATURE_MIG_STATE.size);
    if (bytes === null) return -Errno.EFAULT;
    const payload = new StructBuffer(VFIO_FEATURE_MIG_STATE, bytes);
    if ((flags & GET) !== 0) {
      payload.set('device_state', STATE_NUMBER[this.state]).set('data_fd', -1);
      return copyToUser(data, bytes) ? 0 : -Errno.EFAULT;
    }
    const wanted = stateOf(payload.get('device_state'));
    const result = wanted === null ? -Errno.EINVAL : this.#goTo(wanted);
    payload.set('data_fd', result >= 0 ? result : -1);
    copyToUser(data, bytes);
    return result < 0 && result !== NO_SESSION ? result : 0;
  }

  /** Returns the descriptor of a session that begins, NO_SESSION, or minus errno. */
  #goTo(to: MigrationState): number {
    const flags = this.#options.migrationFlags ?? 7;
    const capabilities = { p2p: (flags & 2) !== 0, preCopy: (flags & 4) !== 0 };
    const path = this.state === to ? [] : migrationPath(this.state, to, capabilities);
    if (path === null || this.state === 'ERROR' || to === 'ERROR') return -Errno.EINVAL;
    let fd = NO_SESSION;
    for (const next of path) {
      if (this.#failInto?.state === next) {
        this.#enter(this.#failInto.leaves);
        this.#failInto = undefined;
        return -5;
      }
      if (this.state === 'RESUMING' && !this.#take()) return -Errno.EINVAL;
      if (!isSaving(next) || !isSaving(this.state)) this.#session = null;
      if ((isSaving(next) && !isSaving(this.state)) || next === 'RESUMING') {
        fd = this.#newSession();
        this.#session = { fd, read: 0, written: new Uint8Array() };
      }
      this.#enter(next);
    }
    return fd;
  }

  #enter(state: MigrationState): void {
    this.state = state;
    this.visited.push(state);
    this.onState(state);
  }

  /** RESUMING -> STOP: what was written becomes the device's state, if it is whole. */
  #take(): boolean {
    const written = this.#session?.written ?? new Uint8Array();
    if (expectedBytes(written) !== written.byteLength) return false;
    this.memory = written.slice(HEADER_BYTES);
    return true;
  }

  #stream(): Uint8Array {
    const stream = new Uint8Array(HEADER_BYTES + this.memory.byteLength);
    const view = new DataView(stream.buffer);
    view.setUint32(0, 0x0d0e1234, true);
    view.setUint32(4, this.memory.byteLength, true);
    stream.set(this.memory, HEADER_BYTES);
    return stream;
  }
}

interface Operations {
  readonly flags: number;
  /** Bytes of payload. */
  readonly room: number;
}

const NO_SESSION = -1_000_000;

/** The bytes of a whole stream, by its header; null while the header is not complete. */
function expectedBytes(written: Uint8Array): number | null {
  if (written.byteLength < HEADER_BYTES) return null;
  return HEADER_BYTES + new DataView(written.buffer, written.byteOffset).getUint32(4, true);
}
