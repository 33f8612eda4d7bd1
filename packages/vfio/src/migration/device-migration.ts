import { GodwitError } from '@godwit/core';
import { SyscallError } from '@godwit/linux';
import { Errno, StructBuffer } from '@godwit/linux/unstable';
import { FeatureCall, setFeature } from '../device/device-feature.js';
import type { VfioDevice } from '../device/vfio-device.js';
import {
  DeviceFeature,
  VFIO_FEATURE_MIG_DATA_SIZE,
  VFIO_FEATURE_MIG_STATE,
  VFIO_FEATURE_MIGRATION,
  VFIO_PRECOPY_INFO,
} from '../layouts/device-feature.js';
import { succeeded } from '../syscall-result.js';
import {
  type MigrationCapabilities,
  type MigrationState,
  migrationPath,
  STATE_NUMBER,
  stateOf,
} from './migration-state.js';

/** Estimates of what a device in pre-copy still has to send. Bytes. */
export interface PrecopyInfo {
  /** The rest of the state that the device had when pre-copy began. It should not be stopped before this is 0. */
  readonly initialBytes: number;
  /** State that has changed since it was read. */
  readonly dirtyBytes: number;
  /**
   * Whether the device has new initial bytes, whatever it reported before (VFIO_PRECOPY_INFO_REINIT: after a reconfiguration, for
   * example). False where the kernel cannot report it.
   */
  readonly reinitialized: boolean;
}

/** VFIO device migration v2 (Linux 5.18): the state machine of one device in the kernel. */
export class DeviceMigration {
  readonly device: VfioDevice;
  readonly capabilities: MigrationCapabilities;
  /** Whether the kernel sets the flags of VFIO_MIG_GET_PRECOPY_INFO; a kernel that was not told to leaves them unchanged. */
  readonly #tellsReinit: boolean;

  /** @throws GodwitError GODWIT_UNSUPPORTED when the device or its driver cannot migrate */
  constructor(device: VfioDevice) {
    this.device = device;
    const migration = new FeatureCall(DeviceFeature.VFIO_DEVICE_FEATURE_MIGRATION, 'GET', VFIO_FEATURE_MIGRATION);
    succeeded(migration.call(device.port, device.fd), 'VFIO_DEVICE_FEATURE_MIGRATION', `on ${device.name}`, {
      [Errno.ENOTTY]: { code: 'GODWIT_UNSUPPORTED', advice: 'neither the device nor its driver can migrate' },
    });
    const flags = migration.data.get('flags');
    if ((flags & DeviceFeature.VFIO_MIGRATION_STOP_COPY) === 0) {
      throw new GodwitError(
        'GODWIT_UNSUPPORTED',
        `${device.name} cannot be stopped and copied (its migration flags are 0x${flags.toString(16)})`,
      );
    }
    this.capabilities = {
      p2p: (flags & DeviceFeature.VFIO_MIGRATION_P2P) !== 0,
      preCopy: (flags & DeviceFeature.VFIO_MIGRATION_PRE_COPY) !== 0,
    };
    const { VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 } = DeviceFeature;
    this.#tellsReinit =
      this.capabilities.preCopy && setFeature(device.port, device.fd, VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2) === 0;
  }

  /** The present state of the device. The event loop is blocked while a change of state is under way. */
  state(): MigrationState {
    const { device } = this;
    const call = stateCall();
    return this.#stateOf(call, call.call(device.port, device.fd));
  }

  /** `state` on a pool thread. */
  async stateAsync(): Promise<MigrationState> {
    const { device } = this;
    const call = stateCall();
    return this.#stateOf(call, await call.callAsync(device.port, device.fd));
  }

  #stateOf(call: StateCall, result: number): MigrationState {
    const { device } = this;
    if (result < 0) throw failed('VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE', result, `on ${device.name}`);
    const number = call.data.get('device_state');
    const state = stateOf(number);
    if (state !== null) return state;
    throw new GodwitError(
      'GODWIT_UNSUPPORTED',
      `${device.name} is in migration state ${number}, which this version of Godwit does not know`,
    );
  }

  /**
   * Takes the device to a state, on a pool thread: drivers wait for DMA to end, and firmware to answer.
   *
   * @returns the descriptor of the data session that this began, which the caller closes; null when it began none, or continues the
   * present one
   * @throws GodwitError GODWIT_INVALID_STATE when there is no way from the present state, GODWIT_DEVICE_FAILED when the device is
   * in ERROR or does not reach the state; the message has its present state
   */
  async moveTo(to: MigrationState): Promise<number | null> {
    const { device, capabilities } = this;
    const from = this.state();
    const path = migrationPath(from, to, capabilities);
    if (path === null) throw noWay(device.name, from, to);
    const call = new FeatureCall(DeviceFeature.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, 'SET', VFIO_FEATURE_MIG_STATE);
    call.data.set('device_state', STATE_NUMBER[to]).set('data_fd', -1);
    const result = await call.callAsync(device.port, device.fd);
    if (result < 0) {
      const cause = new SyscallError('VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE', -result, `to ${to}`);
      throw new GodwitError(
        'GODWIT_DEVICE_FAILED',
        `${device.name} did not get from ${from} to ${to} (by way of ${path.join(', ') || 'nothing'}): ${cause.errnoName}; it is in ${this.#whereabouts()}`,
        { cause },
      );
    }
    const fd = call.data.get('data_fd') | 0;
    return fd >= 0 ? fd : null;
  }

  /**
   * VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: bytes that stopping and copying would take; null where the kernel cannot report them (before
   * 6.2).
   *
   * @throws SyscallError GODWIT_DEVICE_FAILED when the driver fails to report them
   */
  stopCopyBytes(): number | null {
    const { device } = this;
    const call = new FeatureCall(DeviceFeature.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, 'GET', VFIO_FEATURE_MIG_DATA_SIZE);
    const result = call.call(device.port, device.fd);
    if (result === -Errno.ENOTTY) return null;
    if (result < 0) throw failed('VFIO_DEVICE_FEATURE_MIG_DATA_SIZE', result, `on ${device.name}`);
    return call.data.get('stop_copy_length');
  }

  /** VFIO_MIG_GET_PRECOPY_INFO on the session's descriptor, in the PRE_COPY states. */
  precopyInfo(dataFd: number): PrecopyInfo {
    const info = new StructBuffer(VFIO_PRECOPY_INFO).set('argsz', VFIO_PRECOPY_INFO.size);
    const result = this.device.port.ioctl(dataFd, DeviceFeature.VFIO_MIG_GET_PRECOPY_INFO, info.bytes);
    if (result < 0) throw failed('VFIO_MIG_GET_PRECOPY_INFO', result, `on the state of ${this.device.name}`);
    const reinit = (info.get('flags') & DeviceFeature.VFIO_PRECOPY_INFO_REINIT) !== 0;
    return {
      initialBytes: info.get('initial_bytes'),
      dirtyBytes: info.get('dirty_bytes'),
      reinitialized: this.#tellsReinit && reinit,
    };
  }

  #whereabouts(): string {
    try {
      return this.state();
    } catch (error) {
      return `a state that cannot be told (${String(error)})`;
    }
  }
}

type StateCall = FeatureCall<keyof typeof VFIO_FEATURE_MIG_STATE.fields>;

function stateCall(): StateCall {
  return new FeatureCall(DeviceFeature.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, 'GET', VFIO_FEATURE_MIG_STATE);
}

function failed(call: string, result: number, asked: string): SyscallError {
  return new SyscallError(call, -result, asked, { code: 'GODWIT_DEVICE_FAILED' });
}

function noWay(name: string, from: MigrationState, to: MigrationState): GodwitError {
  if (from === 'ERROR') {
    return new GodwitError(
      'GODWIT_DEVICE_FAILED',
      `${name} is in ERROR and cannot go to ${to}; only a reset gets it out, and the device's state is lost with it`,
    );
  }
  return new GodwitError('GODWIT_INVALID_STATE', `${name} is in ${from}, from where there is no way to ${to}`);
}
