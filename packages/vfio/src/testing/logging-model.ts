import { Errno, StructBuffer } from '@godwit/linux/unstable';
import {
  DeviceFeature,
  VFIO_FEATURE_DMA_LOGGING_CONTROL,
  VFIO_FEATURE_DMA_LOGGING_RANGE,
  VFIO_FEATURE_DMA_LOGGING_REPORT,
} from '../layouts/device-feature.js';
import { checkFeature } from './feature-checks.js';
import { copyFromUser, copyToUser } from './user-memory.js';

/** LOG_MAX_RANGES: as many ranges as fit into a page. */
const MOST_RANGES = 256;
const LEAST_PAGE = 4096n;
const TWO_64 = 1n << 64n;

interface Range {
  readonly start: bigint;
  readonly end: bigint;
}

/**
 * DMA logging of a device as in Linux 6.12: the checks of vfio_main.c, and a driver that logs every page exactly.
 *
 * @example
 * device.logging?.deviceWrite(0x1000, 4096); // the next report has this page
 */
export class LoggingModel {
  /** The ranges that the device was told to log. */
  ranges: readonly Range[] = [];
  /** True for a kernel without CONFIG_IOMMUFD_DRIVER: starting succeeds, reporting always fails. */
  cannotReport = false;
  /** The most ranges that the driver accepts, below the kernel's own limit. */
  mostRanges = MOST_RANGES;
  running = false;
  readonly #dirty = new Set<bigint>();

  /** Writes memory as the device: `byteLength` bytes from `iova` on. */
  deviceWrite(iova: number, byteLength: number): void {
    for (let page = BigInt(iova) / LEAST_PAGE; page * LEAST_PAGE < BigInt(iova + byteLength); page++) {
      const address = page * LEAST_PAGE;
      if (this.running && this.ranges.some(({ start, end }) => start <= address && address < end))
        this.#dirty.add(page);
    }
  }

  /** Answers a VFIO_DEVICE_FEATURE call of DMA logging: the result, or minus errno. */
  feature(flags: number, room: number, data: bigint): number {
    const { VFIO_DEVICE_FEATURE_GET: GET, VFIO_DEVICE_FEATURE_SET: SET } = DeviceFeature;
    switch (flags & 0xffff) {
      case DeviceFeature.VFIO_DEVICE_FEATURE_DMA_LOGGING_START: {
        const checked = checkFeature(flags, SET, room, VFIO_FEATURE_DMA_LOGGING_CONTROL.size);
        return checked === 1 ? this.#start(data) : checked;
      }
      case DeviceFeature.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: {
        const checked = checkFeature(flags, SET, room, 0);
        if (checked !== 1) return checked;
        this.running = false;
        this.#dirty.clear();
        return 0;
      }
      case DeviceFeature.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: {
        const checked = checkFeature(flags, GET, room, VFIO_FEATURE_DMA_LOGGING_REPORT.size);
        return checked === 1 ? this.#report(data) : checked;
      }
      default:
        return -Errno.ENOTTY;
    }
  }

  #start(data: bigint): number {
    const bytes = copyFromUser(data, VFIO_FEATURE_DMA_LOGGING_CONTROL.size);
    if (bytes === null) return -Errno.EFAULT;
    const control = new StructBuffer(VFIO_FEATURE_DMA_LOGGING_CONTROL, bytes);
    const count = control.get('num_ranges');
    if (count === 0) return -Errno.EINVAL;
    if (count > MOST_RANGES || count > this.mostRanges) return -Errno.E2BIG;
    const ranges: Range[] = [];
    for (let i = 0; i < count; i++) {
      const at = control.getBigInt('ranges') + BigInt(i * VFIO_FEATURE_DMA_LOGGING_RANGE.size);
      const given = copyFromUser(at, VFIO_FEATURE_DMA_LOGGING_RANGE.size);
      if (given === null) return -Errno.EFAULT;
      const range = new StructBuffer(VFIO_FEATURE_DMA_LOGGING_RANGE, given);
      const [start, length] = [range.getBigInt('iova'), range.getBigInt('length')];
      if (start % LEAST_PAGE !== 0n || length % LEAST_PAGE !== 0n || length === 0n) return -Errno.EINVAL;
      if (start + length > TWO_64) return -Errno.EOVERFLOW;
      if (ranges.some((other) => start < other.end && other.start < start + length)) return -Errno.EINVAL;
      ranges.push({ start, end: start + length });
    }
    if (this.running) return -Errno.EBUSY;
    this.ranges = ranges;
    this.running = true;
    this.#dirty.clear();
    control.set('page_size', LEAST_PAGE);
    return copyToUser(data, bytes) ? 0 : -Errno.EFAULT;
  }

  #report(data: bigint): number {
    if (this.cannotReport) return -Errno.EOPNOTSUPP;
    const bytes = copyFromUser(data, VFIO_FEATURE_DMA_LOGGING_REPORT.size);
    if (bytes === null) return -Errno.EFAULT;
    const report = new StructBuffer(VFIO_FEATURE_DMA_LOGGING_REPORT, bytes);
    const [iova, length, size] = [report.getBigInt('iova'), report.getBigInt('length'), report.getBigInt('page_size')];
    if (size < LEAST_PAGE || (size & (size - 1n)) !== 0n) return -Errno.EINVAL;
    if (iova + length > TWO_64) return -Errno.EOVERFLOW;
    if (!this.running) return -Errno.EINVAL;
    for (const page of [...this.#dirty].sort()) {
      const address = page * LEAST_PAGE;
      if (address < iova || address >= iova + length) continue;
      const bit = (address - iova) / size;
      const at = report.getBigInt('bitmap') + bit / 8n;
      const byte = copyFromUser(at, 1);
      if (byte === null) return -Errno.EFAULT;
      byte[0] = (byte[0] as number) | (1 << Number(bit % 8n));
      if (!copyToUser(at, byte)) return -Errno.EFAULT;
      this.#dirty.delete(page);
    }
    return 0;
  }
}
