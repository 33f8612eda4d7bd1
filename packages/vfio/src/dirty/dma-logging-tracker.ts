import { DirtyBitmap, type DirtyBitmaps, type DirtyTracker, GodwitError, type GuestMemory } from '@godwit/core';
import { addressOf, Errno, StructBuffer, SyscallError } from '@godwit/linux';
import { FeatureCall, plainFeature, probeFeature } from '../device/device-feature.js';
import type { VfioDevice } from '../device/vfio-device.js';
import type { DmaMapping, DmaSpace } from '../dma-space.js';
import {
  DeviceFeature,
  VFIO_FEATURE_DMA_LOGGING_CONTROL,
  VFIO_FEATURE_DMA_LOGGING_RANGE,
  VFIO_FEATURE_DMA_LOGGING_REPORT,
} from '../layouts/device-feature.js';
import { MappingTranslation } from './iova-translation.js';
import { type LoggedRange, loggedRanges, MOST_RANGES } from './logged-ranges.js';
import { PerMapping } from './per-mapping.js';
import { trackerFailed } from './tracker-error.js';

/** VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT takes no smaller one. */
const LEAST_REPORT_PAGE = 4096;

/** What a device is asked about one mapping, and what it answers. */
class MappingReport {
  readonly translation: MappingTranslation;
  readonly bitmap: DirtyBitmap;
  readonly call: FeatureCall<keyof typeof VFIO_FEATURE_DMA_LOGGING_REPORT.fields>;

  constructor(mapping: DmaMapping, memory: GuestMemory, page: number) {
    this.translation = new MappingTranslation(mapping, memory, page);
    this.bitmap = new DirtyBitmap(Math.ceil(mapping.byteLength / page));
    this.call = new FeatureCall(
      DeviceFeature.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
      'GET',
      VFIO_FEATURE_DMA_LOGGING_REPORT,
    );
    this.call.data
      .set('iova', mapping.iova)
      .set('length', mapping.byteLength)
      .set('page_size', page)
      .set('bitmap', addressOf(this.bitmap.bytes));
  }
}

/**
 * What one device wrote, by its own account: devices that log their DMA (VFIO_DEVICE_FEATURE_DMA_LOGGING_*, Linux 6.1), as
 * those made for migration do.
 *
 * Logging covers what is mapped when it starts. Memory that is mapped later, outside of that, is reported as dirty at every
 * harvest.
 */
export class DmaLoggingTracker implements DirtyTracker {
  readonly name: string;
  readonly blindSpots = 'everything but DMA of this one device';
  readonly #device: VfioDevice;
  readonly #space: DmaSpace;
  readonly #memory: GuestMemory;
  readonly #reportPage: number;
  readonly #reports: PerMapping<MappingReport>;
  #ranges: readonly LoggedRange[] = [];
  #devicePage = 0;
  #departed: MappingReport[] = [];
  #unlisten: (() => void) | null = null;

  /** Whether this device logs at all. Whether this kernel can tell what it logged shows when it is started. */
  static supports(device: VfioDevice): boolean {
    const { VFIO_DEVICE_FEATURE_DMA_LOGGING_START, VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT } = DeviceFeature;
    return (
      probeFeature(device.port, device.fd, VFIO_DEVICE_FEATURE_DMA_LOGGING_START, 'SET') === 0 &&
      probeFeature(device.port, device.fd, VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, 'GET') === 0
    );
  }

  /** @param space the address space that the device is in */
  constructor(device: VfioDevice, space: DmaSpace, memory: GuestMemory, name = `vfio-dma-log ${device.name}`) {
    this.name = name;
    this.#device = device;
    this.#space = space;
    this.#memory = memory;
    // Reported in the engine's own pages where that can be: nothing is left to translate then.
    this.#reportPage = Math.max(memory.pageSize, LEAST_REPORT_PAGE);
    this.#reports = new PerMapping((mapping) => new MappingReport(mapping, memory, this.#reportPage));
  }

  /** Exact when the device logs all that is mapped, in pages no larger than the engine's; known once it has started. */
  get exact(): boolean {
    const fine = this.#devicePage > 0 && this.#devicePage <= this.#memory.pageSize;
    return fine && this.#space.mappings.every((mapping) => this.#covers(mapping));
  }

  /** What the device logs. */
  get ranges(): readonly LoggedRange[] {
    return this.#ranges;
  }

  /**
   * Starts logging, and asks for a report at once: where the kernel was built without CONFIG_IOMMUFD_DRIVER (Debian 12's is)
   * starting goes well and reporting never does.
   *
   * @throws GodwitError GODWIT_TRACKER_FAILED when the device does not log, or the kernel cannot tell what it logged
   */
  async start(): Promise<void> {
    if (this.#unlisten !== null)
      throw new GodwitError('GODWIT_INVALID_STATE', `dirty tracker ${this.name} runs already`);
    try {
      await this.#startLogging();
      const [first] = this.#reports.of(this.#space.mappings);
      if (first !== undefined) await this.#read(first);
    } catch (error) {
      this.#stopLogging();
      throw trackerFailed(this.name, 'start', error);
    }
    this.#departed = [];
    this.#unlisten = this.#space.listen({
      // The device's log still has it when the mapping is gone.
      unmapped: (mapping) => this.#departed.push(new MappingReport(mapping, this.#memory, this.#reportPage)),
    });
  }

  async harvest(into: DirtyBitmaps): Promise<void> {
    if (this.#unlisten === null)
      throw new GodwitError('GODWIT_INVALID_STATE', `dirty tracker ${this.name} does not run`);
    let failure: unknown;
    for (const report of [...this.#departed.splice(0), ...this.#reports.of(this.#space.mappings)]) {
      if (!this.#covers(report.translation.mapping)) {
        report.translation.reportAll(into);
        continue;
      }
      try {
        await this.#read(report);
        report.translation.report(report.bitmap, into);
      } catch (error) {
        // "If any error is returned userspace should assume that the dirty log is corrupted" (linux/vfio.h).
        report.translation.reportAll(into);
        failure ??= error;
      }
    }
    if (failure !== undefined) throw trackerFailed(this.name, 'harvest', failure);
  }

  async stop(): Promise<void> {
    if (this.#unlisten === null) return;
    this.#unlisten();
    this.#unlisten = null;
    this.#departed = [];
    const result = this.#stopLogging();
    if (result < 0) {
      throw trackerFailed(this.name, 'stop', new SyscallError('VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP', -result, ''));
    }
  }

  /** With fewer and fewer ranges, for devices that take only so many. */
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

  #stopLogging(): number {
    const { port, fd } = this.#device;
    return plainFeature(port, fd, DeviceFeature.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, 'SET');
  }

  /** REPORT only sets bits: the bitmap is zeroed first. */
  async #read({ bitmap, call, translation }: MappingReport): Promise<void> {
    bitmap.clearAll();
    const result = await call.callAsync(this.#device.port, this.#device.fd);
    bitmap.maskTail();
    if (result >= 0) return;
    const { iova, byteLength } = translation.mapping;
    throw new SyscallError(
      'VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT',
      -result,
      `of ${byteLength} bytes at IOVA 0x${iova.toString(16)} on ${this.#device.name}`,
      result === -Errno.EOPNOTSUPP
        ? { code: 'GODWIT_UNSUPPORTED', advice: 'the kernel needs CONFIG_IOMMUFD_DRIVER to tell what a device logged' }
        : {},
    );
  }

  #covers({ iova, byteLength }: DmaMapping): boolean {
    return this.#ranges.some((range) => range.iova <= iova && iova + byteLength <= range.iova + range.byteLength);
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
