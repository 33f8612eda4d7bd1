import type { DescriptorChain } from './descriptor-chain.js';
import { type DiskFile, SECTOR_BYTES } from './disk-file.js';
import { QUEUE_SIZE } from './mmio-transport.js';
import { QueueFault } from './split-queue.js';
import type { QueueService, VirtioDevice } from './virtio-device.js';
import { DeviceType } from './virtio-numbers.js';

/** Feature bits (5.2.3): limits of a segment and of a request, read-only, flush. */
const FEATURE_SEGMENT_BYTES = 1n << 1n;
const FEATURE_SEGMENTS = 1n << 2n;
const FEATURE_READ_ONLY = 1n << 5n;
const FEATURE_FLUSH = 1n << 9n;

/** Types of requests, and their results (5.2.6). */
export const BlockRequest = { read: 0, write: 1, flush: 4, getId: 8 } as const;
export const BlockStatus = { ok: 0, ioError: 1, unsupported: 2 } as const;
/** Type, reserved, sector. */
const HEADER_BYTES = 16;
const STATUS_BYTES = 1;
const ID_BYTES = 20;

/** A segment is a descriptor; the header and the status have one each. */
const MOST_SEGMENT_BYTES = 2 ** 16;
const MOST_SEGMENTS = QUEUE_SIZE - 2;
const MOST_DATA_BYTES = MOST_SEGMENTS * MOST_SEGMENT_BYTES;
/** The most bytes that a request copies at a time. */
const PIECE_BYTES = 2 ** 20;
const MOST_IN_HAND = 16;
const CONFIG_BYTES = 16;

/**
 * A disk (5.2) whose sectors are those of a file. Requests are carried out side by side, and each is completed before the machine counts
 * as paused, so that no request migrates half done: later requests wait in the guest's queue.
 *
 * Data passes through memory of the VMM instead of going straight between the file and the guest: each write into guest memory is made on
 * the main thread, which marks it for the dirty tracker.
 */
export class BlockDevice implements VirtioDevice {
  readonly id = 'virtio-block';
  readonly type = DeviceType.block;
  readonly features: bigint;
  readonly config = new Uint8Array(CONFIG_BYTES);
  readonly version = 1;
  readonly sections = {};
  readonly queues: readonly QueueService[];
  readonly #disk: DiskFile;
  readonly #name: Uint8Array;

  /**
   * @param disk the file; the device locks it while the machine runs, and closes it in the end
   * @param name the disk's id for the guest, at most 20 bytes of ASCII: the same on every host
   */
  constructor(disk: DiskFile, name: string) {
    this.#disk = disk;
    this.#name = Buffer.from(name.slice(0, ID_BYTES).padEnd(ID_BYTES, '\0'), 'latin1');
    this.features = FEATURE_SEGMENT_BYTES | FEATURE_SEGMENTS | FEATURE_FLUSH | (disk.readonly ? FEATURE_READ_ONLY : 0n);
    const view = new DataView(this.config.buffer);
    view.setBigUint64(0, BigInt(disk.byteLength / SECTOR_BYTES), true);
    view.setUint32(8, MOST_SEGMENT_BYTES, true);
    view.setUint32(12, MOST_SEGMENTS, true);
    const maximumChainBytes = HEADER_BYTES + MOST_DATA_BYTES + STATUS_BYTES;
    this.queues = [{ maximumChainBytes, mostInHand: MOST_IN_HAND, serve: (chain) => this.#serve(chain) }];
  }

  attach(): void {
    // A request is carried out as soon as it is there.
  }

  start(): void {
    this.#disk.lock();
  }

  async stop(): Promise<void> {
    await this.#disk.unlock();
  }

  async close(): Promise<void> {
    await this.#disk.close();
  }

  /**
   * There is no state. A disk that a third VMM has taken is refused here, where the guest can still run on at its source, whose lock was
   * given back at the pause.
   *
   * @throws GodwitError GODWIT_DEVICE_BUSY
   */
  load(): void {
    this.#disk.requireFree();
  }

  async #serve(chain: DescriptorChain): Promise<number> {
    if (chain.readableBytes < HEADER_BYTES || chain.writableBytes < STATUS_BYTES) {
      throw new QueueFault(
        `a request to a disk has ${HEADER_BYTES} bytes to be read and one to be written, got ${chain.readableBytes} and ${chain.writableBytes}`,
      );
    }
    const header = new DataView(chain.read(0, HEADER_BYTES).buffer);
    const status = await this.#carryOut(chain, header.getUint32(0, true), header.getBigUint64(8, true));
    // The status is the last byte, behind the data: a driver reads it there even if the request has failed.
    chain.write(chain.writableBytes - STATUS_BYTES, Uint8Array.of(status));
    return chain.writableBytes;
  }

  /** Resolves with a `BlockStatus`. */
  async #carryOut(chain: DescriptorChain, type: number, sector: bigint): Promise<number> {
    try {
      switch (type) {
        case BlockRequest.read: {
          const byteLength = chain.writableBytes - STATUS_BYTES;
          const position = this.#position(sector, byteLength);
          if (position === undefined) return BlockStatus.ioError;
          await this.#read(chain, position, byteLength);
          return BlockStatus.ok;
        }
        case BlockRequest.write: {
          const byteLength = chain.readableBytes - HEADER_BYTES;
          const position = this.#position(sector, byteLength);
          if (position === undefined || this.#disk.readonly) return BlockStatus.ioError;
          await this.#write(chain, position, byteLength);
          return BlockStatus.ok;
        }
        case BlockRequest.flush:
          await this.#disk.flush();
          return BlockStatus.ok;
        case BlockRequest.getId: {
          chain.write(0, this.#name.subarray(0, chain.writableBytes - STATUS_BYTES));
          return BlockStatus.ok;
        }
        default:
          return BlockStatus.unsupported;
      }
    } catch {
      // The file could not be read or written: the guest gets an error, and handles it.
      return BlockStatus.ioError;
    }
  }

  async #read(chain: DescriptorChain, position: number, byteLength: number): Promise<void> {
    for (let at = 0; at < byteLength; at += PIECE_BYTES) {
      chain.write(at, await this.#disk.read(position + at, Math.min(PIECE_BYTES, byteLength - at)));
    }
  }

  async #write(chain: DescriptorChain, position: number, byteLength: number): Promise<void> {
    for (let at = 0; at < byteLength; at += PIECE_BYTES) {
      const bytes = chain.read(HEADER_BYTES + at, Math.min(PIECE_BYTES, byteLength - at));
      await this.#disk.write(position + at, bytes);
    }
  }

  /** The place of sectors in the file; undefined when they are not all on the disk, or not whole. */
  #position(sector: bigint, byteLength: number): number | undefined {
    const position = sector * BigInt(SECTOR_BYTES);
    const isInside = position + BigInt(byteLength) <= BigInt(this.#disk.byteLength);
    return isInside && byteLength % SECTOR_BYTES === 0 ? Number(position) : undefined;
  }
}
