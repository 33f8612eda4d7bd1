import { Errno } from '@godwit/linux/unstable';
import { DeviceFeature } from '../layouts/device-feature.js';

/** The kernel's `vfio_check_feature`: 1 to go on, 0 for a probe, or minus errno. */
export function checkFeature(flags: number, supported: number, room: number, size: number): number {
  const {
    VFIO_DEVICE_FEATURE_GET: GET,
    VFIO_DEVICE_FEATURE_SET: SET,
    VFIO_DEVICE_FEATURE_PROBE: PROBE,
  } = DeviceFeature;
  if ((flags & (GET | SET) & ~supported) !== 0) return -Errno.EINVAL;
  if ((flags & PROBE) !== 0) return 0;
  return room < size ? -Errno.EINVAL : 1;
}
