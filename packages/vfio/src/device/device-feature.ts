import { StructBuffer, type StructLayout } from '@godwit/linux/unstable';
import type { KernelPort } from '../kernel-port.js';
import { DeviceFeature, VFIO_DEVICE_FEATURE } from '../layouts/device-feature.js';

export type FeatureOperation = 'GET' | 'SET';

/** VFIO_DEVICE_FEATURE with a payload of one struct, kept for further calls. The kernel reads and writes it in place. */
export class FeatureCall<Field extends string> {
  /** The payload. */
  readonly data: StructBuffer<Field>;
  readonly #bytes: Uint8Array;

  constructor(feature: number, operation: FeatureOperation, payload: StructLayout<Field>) {
    const head = featureHead(feature, operation, payload.size);
    this.#bytes = head;
    this.data = new StructBuffer(payload, head.subarray(VFIO_DEVICE_FEATURE.size));
  }

  /** The result, or minus errno. */
  call(port: KernelPort, device: number): number {
    return port.ioctl(device, DeviceFeature.VFIO_DEVICE_FEATURE, this.#bytes);
  }

  /** Makes the call on a pool thread, for a change of state or a large log, which take long. */
  callAsync(port: KernelPort, device: number): Promise<number> {
    return port.ioctlAsync(device, DeviceFeature.VFIO_DEVICE_FEATURE, this.#bytes);
  }
}

/** An operation without data, on a pool thread: 0, or minus errno. */
export function plainFeatureAsync(
  port: KernelPort,
  device: number,
  feature: number,
  operation: FeatureOperation,
): Promise<number> {
  return port.ioctlAsync(device, DeviceFeature.VFIO_DEVICE_FEATURE, featureHead(feature, operation, 0));
}

/** Whether the device has the feature for this operation: 0, or minus errno (ENOTTY when it has not). */
export function probeFeature(port: KernelPort, device: number, feature: number, operation: FeatureOperation): number {
  const head = featureHead(feature, operation, 0);
  new StructBuffer(VFIO_DEVICE_FEATURE, head).set(
    'flags',
    feature | operationFlag(operation) | DeviceFeature.VFIO_DEVICE_FEATURE_PROBE,
  );
  return port.ioctl(device, DeviceFeature.VFIO_DEVICE_FEATURE, head);
}

/** A SET without data, which asks for a behaviour: 0, or minus errno (ENOTTY where the kernel does not know it). */
export function setFeature(port: KernelPort, device: number, feature: number): number {
  return port.ioctl(device, DeviceFeature.VFIO_DEVICE_FEATURE, featureHead(feature, 'SET', 0));
}

function featureHead(feature: number, operation: FeatureOperation, payloadBytes: number): Uint8Array {
  const size = VFIO_DEVICE_FEATURE.size + payloadBytes;
  return new StructBuffer(VFIO_DEVICE_FEATURE, payloadBytes)
    .set('argsz', size)
    .set('flags', feature | operationFlag(operation)).bytes;
}

function operationFlag(operation: FeatureOperation): number {
  return operation === 'GET' ? DeviceFeature.VFIO_DEVICE_FEATURE_GET : DeviceFeature.VFIO_DEVICE_FEATURE_SET;
}
