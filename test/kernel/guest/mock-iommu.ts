import { tryIoctl } from '@godwit/linux/unstable';
import { packed, succeeds, u32, u64, withAddress } from './vfio-calls.js';

/** drivers/iommu/iommufd/iommufd_test.h: `_IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 32)`, and its operations. */
const IOMMU_TEST_CMD = 0x3ba0;
const OP_MOCK_DOMAIN_REPLACE = 10;
const OP_MOCK_DOMAIN_FLAGS = 12;
const OP_DIRTY = 13;
const MOCK_FLAGS_DEVICE_NO_DIRTY = 1;
/** sizeof(struct iommu_test_cmd) */
const COMMAND_BYTES = 72;

/** MOCK_IO_PAGE_SIZE, half a page of the processor: the page size of the mock IOMMU. */
export const MOCK_PAGE = 2048;
/** MOCK_APERTURE_START and MOCK_APERTURE_LAST: the addresses that the mock IOMMU can map. */
export const MOCK_APERTURE = { start: 0x100_0000, last: 0x7fff_ffff } as const;

/**
 * A device of iommufd's self-test. It does nothing by itself, and its IOMMU is a table in the kernel's memory. A call of
 * `write` marks pages as written by the device. The device exists until its iommufd is closed.
 */
export class MockDevice {
  readonly #iommufd: number;
  /** The ids of the mock device itself, and of what a VFIO device would be after BIND_IOMMUFD. */
  readonly #id: number;
  readonly deviceId: number;

  /** @param ioas the number of the address space that it is attached to */
  constructor(iommufd: number, ioas: number, options: { readonly tracksDirtyPages?: boolean } = {}) {
    const flags = options.tracksDirtyPages === false ? MOCK_FLAGS_DEVICE_NO_DIRTY : 0;
    const made = command(OP_MOCK_DOMAIN_FLAGS, ioas, u32(0, 0, 0, flags));
    succeeds('IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS', tryIoctl(iommufd, IOMMU_TEST_CMD, made));
    const view = new DataView(made.buffer);
    this.#iommufd = iommufd;
    this.#id = view.getUint32(16, true);
    this.deviceId = view.getUint32(24, true);
  }

  /** Attaches the device to another address space or page table. Returns 0, or minus errno. */
  attach(id: number): number {
    return tryIoctl(this.#iommufd, IOMMU_TEST_CMD, command(OP_MOCK_DOMAIN_REPLACE, this.#id, u32(id)));
  }

  /**
   * Sets the dirty bits of these bytes in a page table, as an IOMMU does when its device writes.
   *
   * @returns the bits that were set, one for each `MOCK_PAGE` that is mapped; or minus errno (EINVAL with tracking off)
   */
  write(pagetable: number, iova: number, byteLength: number): number {
    const first = Math.floor(iova / MOCK_PAGE);
    const count = Math.ceil((iova + byteLength) / MOCK_PAGE) - first;
    const bits = new Uint8Array(Math.ceil(count / 64) * 8).fill(0xff);
    return withAddress(bits, (address) => {
      const range = u64(first * MOCK_PAGE, count * MOCK_PAGE, MOCK_PAGE, address, 0);
      const dirty = command(OP_DIRTY, pagetable, packed(u32(0, 0), range));
      const result = tryIoctl(this.#iommufd, IOMMU_TEST_CMD, dirty);
      return result < 0 ? result : Number(new DataView(dirty.buffer).getBigUint64(56, true));
    });
  }
}

/** struct iommu_test_cmd: a head of 16 bytes, the operation's arguments, and zeroes. */
function command(operation: number, id: number, wanted: Uint8Array): Uint8Array {
  const argument = new Uint8Array(COMMAND_BYTES);
  argument.set(u32(COMMAND_BYTES, operation, id, 0));
  argument.set(wanted, 16);
  return argument;
}
