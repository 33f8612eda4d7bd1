import { DirtyBitmap, type DirtyBitmaps, type DirtyTracker, GodwitError, type GuestMemory } from '@godwit/core';
import { SyscallError } from '@godwit/linux';
import { addressOf, Errno, StructBuffer, trackerFailed } from '@godwit/linux/unstable';
import { FeatureCall, plainFeatureAsync, probeFeature } from '../device/device-feature.js';
import type { VfioDevice } from '../device/vfio-device.js';
import type { DmaMapping, DmaSpace } from '../dma-space.js';
import {
  DeviceFeature,
  VFIO_FEATURE_DMA_LOGGING_CONTROL,
  VFIO_FEATURE_DMA_LOGGING_RANGE,
  VFIO_FEATURE_DMA_LOGGING_REPORT,
} from '../layouts/device-feature.js';
import { isLogged, type LoggedRange, loggedRanges, MOST_RANGES } from './logged-ranges.js';
import { SpaceLog } from './space-log.js';

/** VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT takes no smaller one. */
const LEAST_REPORT_PAGE = 4096;

type ReportCall = FeatureCall<keyof typeof VFIO_FEATURE_DMA_LOGGING_REPORT.fields>;

function newReport(): ReportCall {
  return new FeatureCall(DeviceFeature.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, 'GET', VFIO_FEATURE_DMA_LOGGING_REPORT);
}

/**
 * Tracks the writes of one device by the device's own log of its DMA (VFIO_DEVICE_FEATURE_DMA_LOGGING_*, Linux 6.1), which
 * devices made for migration keep.
 *
 * Logging covers what is mapped when it starts. Memory that is mapped later at other addresses is reported as dirty at every
 * harvest. A device logs addresses, not mappings: the tracker reads a report at each unmap, before the addresses may be used
 * again.
 *
 * @example
 * if (DmaLoggingTracker.supports(device)) trackers.push(new DmaLoggingTracker(device, container, memory));
 */
export class DmaLoggingTracker implements DirtyTracker {
  readonly name: string;
  readonly blindSpots = 'everything but DMA of this one device';
  readonly #device: VfioDevice;
  readonly #space: DmaSpace;
  readonly #memory: GuestMemory;
  readonly #reportPage: number;
  readonly #log: SpaceLog;
  /** The argument of reports that are made on the event loop. */
  readonly #report = newReport();
  #ranges: readonly LoggedRange[] = [];
  #devicePage = 0;
  /** The error of a failed report at an unmap. */
  #failure: unknown;
  /** True when the last harvest may have had pages that the device did not write. */
  #guessed = false;

  /** Whether this device logs its DMA. Whether this kernel can report the log shows when the tracker is started. */
  static supports(device: VfioDevice): boolean {
    const { VFIO_DEVICE_FEATURE_DMA_LOGGING_START, VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT } = DeviceFeature;
    return (
      probeFeature(device.port, device.fd, VFIO_DEVICE_FEATURE_DMA_LOGGING_START, 'SET') === 0 &&
      probeFeature(device.port, device.fd, VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, 'GET') === 0
    );
  }

  /** @param space the address space of the device */
  constructor(device: VfioDevice, space: DmaSpace, memory: GuestMemory, name = `vfio-dma-log ${device.name}`) {
    this.name = name;
    this.#device = device;
    this.#space = space;
    this.#memory = memory;
    // The report has the engine's page size where possible, so that nothing has to be translated.
    this.#reportPage = Math.max(memory.pageSize, LEAST_REPORT_PAGE);
    this.#log = new SpaceLog(space, memory, {
      pageSize: this.#reportPage,
      read: (mapping, bitmap) => this.#reportCall(mapping, bitmap).callAsync(device.port, device.fd),
      readNow: (mapping, bitmap) => this.#reportCall(mapping, bitmap, this.#report).call(device.port, device.fd),
      error: (mapping, result) => this.#reportError(mapping, result),
      covers: (mapping) => isLogged(this.#ranges, mapping),
    });
  }

  /**
   * Exact when the device logs all mapped memory in pages no larger than the engine's, and no unmap made the last harvest
   * inexact; known once the tracker has started.
   */
  get exact(): boolean {
    const fine = this.#devicePage > 0 && this.#devicePage <= this.#memory.pageSize;
    return fine && !this.#guessed && this.#space.mappings.every((mapping) => isLogged(this.#ranges, mapping));
  }

  /** The ranges that the device logs. */
  get ranges(): readonly LoggedRange[] {
    return this.#ranges;
  }

  /**
   * Starts logging, and makes a report at once: in a kernel without CONFIG_IOMMUFD_DRIVER (Debian 12's) starting succeeds and
   * reporting always fails.
   *
   * @throws GodwitError GODWIT_TRACKER_FAILED when the device does not log, or the kernel cannot report its log
   */
  async start(): Promise<void> {
    if (this.#log.running) throw new GodwitError('GODWIT_INVALID_STATE', `dirty tracker ${this.name} runs already`);
    this.#failure = undefined;
    this.#guessed = false;
    try {
      await this.#log.start({ unmapped: (mapping) => this.#unmapped(mapping) }, async () => {
        await this.#startLogging();
        try {
          await this.#tryReport();
        } catch (error) {
          await this.#stopLogging();
          throw error;
        }
      });
    } catch (error) {
      throw trackerFailed(this.name, 'start', error);
    }
  }

  async harvest(into: DirtyBitmaps): Promise<void> {
    if (!this.#log.running) throw new GodwitError('GODWIT_INVALID_STATE', `dirty tracker ${this.name} does not run`);
    const { failure, guessed } = await this.#log.harvest(into);
    this.#guessed = guessed;
    // "If any error is returned userspace should assume that the dirty log is corrupted" (linux/vfio.h).
    const first = this.#failure ?? failure;
    this.#failure = undefined;
    if (first !== undefined) throw trackerFailed(this.name, 'harvest', first);
  }

  async stop(): Promise<void> {
    await this.#log.stop(async () => {
      const result = await this.#stopLogging();
      if (result >= 0) return;
      throw trackerFailed(this.name, 'stop', new SyscallError('VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP', -result, ''));
    });
  }

  /**
   * Reads the device's writes through a mapping that is gone: it cannot write there any more, and the log must be read before
   * the addresses are used again, since it knows addresses only.
   */
  async #unmapped(mapping: DmaMapping): Promise<void> {
    if (!isLogged(this.#ranges, mapping)) return this.#log.departed(mapping, null);
    const { port, fd } = this.#device;
    const bitmap = new DirtyBitmap(Math.ceil(mapping.byteLength / this.#reportPage));
    try {
      const result = await this.#reportCall(mapping, bitmap).callAsync(port, fd);
      if (result < 0) throw this.#reportError(mapping, result);
      bitmap.maskTail();
      this.#log.departed(mapping, bitmap);
    } catch (error) {
      this.#failure ??= error;
      this.#log.departed(mapping, null);
    }
  }

  /** Starts logging, with fewer and fewer ranges for devices that accept only a few. */
  async #startLogging(): Promise<void> {
    const { port, fd } = this.#device;
    for (let most = MOST_RANGES; ; most = Math.floor(most / 2)) {
      const ranges = loggedRanges(this.#space.mappings, most);
      if (ranges.length === 0)
        throw new GodwitError('GODWIT_INVALID_STATE', 'nothing is mapped, so there is nothing to log');
      const array = rangeArray(ranges);
      const start = new FeatureCall(
        DeviceFeature.VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
        'SET',
        VFIO_FEATURE_DMA_LOGGING_CONTROL,
      );
      start.data.set('page_size', this.#reportPage).set('num_ranges', ranges.length).set('ranges', addressOf(array));
      const result = await start.callAsync(port, fd);
      if (result >= 0) {
        this.#ranges = ranges;
        this.#devicePage = start.data.get('page_size');
        return;
      }
      const tooMany = result === -Errno.E2BIG || result === -Errno.ENOSPC || result === -Errno.EOPNOTSUPP;
      // `array` is named here so that it outlives the call.
      if (!tooMany || ranges.length === 1) {
        throw new SyscallError(
          'VFIO_DEVICE_FEATURE_DMA_LOGGING_START',
          -result,
          `of ${array.byteLength / VFIO_FEATURE_DMA_LOGGING_RANGE.size} ranges on ${this.#device.name}`,
        );
      }
      most = Math.min(most, ranges.length);
    }
  }

  async #stopLogging(): Promise<number> {
    const { port, fd } = this.#device;
    return plainFeatureAsync(port, fd, DeviceFeature.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, 'SET');
  }

  /** Tries whether this kernel can report the device's log. */
  async #tryReport(): Promise<void> {
    const [first] = this.#space.mappings;
    if (first === undefined) return;
    const { port, fd } = this.#device;
    const bitmap = new DirtyBitmap(Math.ceil(first.byteLength / this.#reportPage));
    const result = await this.#reportCall(first, bitmap).callAsync(port, fd);
    if (result < 0) throw this.#reportError(first, result);
    // The bits of this report may be dropped: a tracker is started before the first page is read.
    bitmap.clearAll();
  }

  #reportCall({ iova, byteLength }: DmaMapping, bitmap: DirtyBitmap, call: ReportCall = newReport()): ReportCall {
    call.data
      .set('iova', iova)
      .set('length', byteLength)
      .set('page_size', this.#reportPage)
      .set('bitmap', addressOf(bitmap.bytes));
    return call;
  }

  #reportError({ iova, byteLength }: DmaMapping, result: number): SyscallError {
    return new SyscallError(
      'VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT',
      -result,
      `of ${byteLength} bytes at IOVA 0x${iova.toString(16)} on ${this.#device.name}`,
      result === -Errno.EOPNOTSUPP
        ? { code: 'GODWIT_UNSUPPORTED', advice: 'the kernel needs CONFIG_IOMMUFD_DRIVER to tell what a device logged' }
        : {},
    );
  }
}

function rangeArray(ranges: readonly LoggedRange[]): Uint8Array {
  const { size } = VFIO_FEATURE_DMA_LOGGING_RANGE;
  const array = new Uint8Array(ranges.length * size);
  for (const [i, { iova, byteLength }] of ranges.entries()) {
    new StructBuffer(VFIO_FEATURE_DMA_LOGGING_RANGE, array.subarray(i * size))
      .set('iova', iova)
      .set('length', byteLength);
  }
  return array;
}
