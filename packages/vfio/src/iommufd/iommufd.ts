import { Errno, type IoctlArgument, StructBuffer } from '@godwit/linux/unstable';
import { Descriptor } from '../descriptor.js';
import { type KernelPort, linuxKernel } from '../kernel-port.js';
import { atOnce, type KernelSteps, onPool } from '../kernel-steps.js';
import {
  IOMMU_DESTROY,
  IOMMU_HW_INFO,
  IOMMU_HWPT_ALLOC,
  IOMMU_IOAS_ALLOC,
  IommufdFlag,
  IommufdRequest,
} from '../layouts/iommufd.js';
import { succeeded } from '../syscall-result.js';
import { HardwarePagetable } from './hardware-pagetable.js';
import { Ioas, type IommufdOwner } from './ioas.js';

/**
 * /dev/iommu, the successor of containers (Linux 6.2). Its objects have numbers, and end with it.
 *
 * @example
 * const iommufd = Iommufd.open();
 * const ioas = iommufd.allocateIoas();
 * await iommufd.closeAsync();
 */
export class Iommufd implements IommufdOwner {
  readonly port: KernelPort;
  readonly #descriptor: Descriptor;
  readonly #owned: boolean;
  readonly #spaces: Ioas[] = [];
  #closing: Promise<void> | null = null;

  private constructor(fd: number, owned: boolean, port: KernelPort) {
    this.port = port;
    this.#owned = owned;
    this.#descriptor = new Descriptor(port, fd, `iommufd ${fd}`, owned);
  }

  /** @throws SyscallError GODWIT_UNSUPPORTED on a kernel without iommufd, GODWIT_PERMISSION */
  static open(port: KernelPort = linuxKernel): Iommufd {
    return new Iommufd(port.open('/dev/iommu'), true, port);
  }

  /** Takes an iommufd that the embedder has already opened, and that keeps owning `fd`. */
  static adopt(fd: number, port: KernelPort = linuxKernel): Iommufd {
    return new Iommufd(fd, false, port);
  }

  /** The descriptor, valid until it is closed. */
  get fd(): number {
    return this.#descriptor.fd;
  }

  /** Makes an I/O address space with nothing mapped. */
  allocateIoas(): Ioas {
    const argument = new StructBuffer(IOMMU_IOAS_ALLOC).set('size', IOMMU_IOAS_ALLOC.size);
    const result = this.ioctl(IommufdRequest.IOMMU_IOAS_ALLOC, argument.bytes);
    succeeded(result, 'IOMMU_IOAS_ALLOC', `on iommufd ${this.fd}`);
    const space = new Ioas(this, argument.get('out_ioas_id'));
    this.#spaces.push(space);
    return space;
  }

  /** Whether the IOMMU behind a device can log which pages were written (IOMMU_GET_HW_INFO). */
  tracksDirtyPages(deviceId: number): boolean {
    const info = new StructBuffer(IOMMU_HW_INFO).set('size', IOMMU_HW_INFO.size).set('dev_id', deviceId);
    const result = this.ioctl(IommufdRequest.IOMMU_GET_HW_INFO, info.bytes);
    // These errors are those of a mediated device, which has no IOMMU of its own.
    if (result === -Errno.ENOENT || result === -Errno.EOPNOTSUPP) return false;
    succeeded(result, 'IOMMU_GET_HW_INFO', `of device ${deviceId}`);
    return (info.getBigInt('out_capabilities') & BigInt(IommufdFlag.IOMMU_HW_CAP_DIRTY_TRACKING)) !== 0n;
  }

  /**
   * Makes a page table of the IOMMU that can log writes, over an address space. Attach devices to the page table, not to the
   * address space.
   *
   * The event loop is blocked while all mappings are entered into the table; with `allocateTrackingAsync` it is not.
   *
   * @throws SyscallError GODWIT_UNSUPPORTED when the IOMMU behind the device cannot log
   */
  allocateTracking(deviceId: number, ioas: Ioas): HardwarePagetable {
    return atOnce(this.port, this.#allocateTracking(deviceId, ioas));
  }

  /** `allocateTracking` on a pool thread. */
  allocateTrackingAsync(deviceId: number, ioas: Ioas): Promise<HardwarePagetable> {
    return onPool(this.port, this.#allocateTracking(deviceId, ioas));
  }

  *#allocateTracking(deviceId: number, ioas: Ioas): KernelSteps<HardwarePagetable> {
    const alloc = new StructBuffer(IOMMU_HWPT_ALLOC)
      .set('size', IOMMU_HWPT_ALLOC.size)
      .set('flags', IommufdFlag.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
      .set('dev_id', deviceId)
      .set('pt_id', ioas.id);
    const result = yield { on: this.#descriptor, request: IommufdRequest.IOMMU_HWPT_ALLOC, argument: alloc.bytes };
    succeeded(result, 'IOMMU_HWPT_ALLOC', `for device ${deviceId} with dirty tracking`, {
      [Errno.EOPNOTSUPP]: { code: 'GODWIT_UNSUPPORTED', advice: 'the IOMMU behind this device cannot log writes' },
    });
    return new HardwarePagetable(this, alloc.get('out_hwpt_id'), ioas);
  }

  /** Destroys an object that nothing uses any more. */
  destroy(id: number): void {
    const argument = new StructBuffer(IOMMU_DESTROY).set('size', IOMMU_DESTROY.size).set('id', id);
    succeeded(this.ioctl(IommufdRequest.IOMMU_DESTROY, argument.bytes), 'IOMMU_DESTROY', `on iommufd ${this.fd}`);
  }

  /** The result, or minus errno. Throws GODWIT_INVALID_STATE once it is closed. */
  ioctl(request: number, argument?: IoctlArgument): number {
    return this.#descriptor.ioctl(request, argument);
  }

  /** The same on a pool thread. */
  ioctlAsync(request: number, argument?: IoctlArgument): Promise<number> {
    return this.#descriptor.ioctlAsync(request, argument);
  }

  /**
   * Idempotent. An adopted descriptor is not closed. Close the devices that are bound to the iommufd first: they keep its
   * mappings. The event loop is blocked until a guest's memory is unpinned; with `closeAsync` it is not.
   */
  close(): void {
    if (!this.#descriptor.isOpen) return;
    atOnce(this.port, this.#steps());
  }

  /** `close` on a pool thread. Resolves when it is closed. */
  closeAsync(): Promise<void> {
    this.#closing ??= onPool(this.port, this.#steps());
    return this.#closing;
  }

  *#steps(): KernelSteps<void> {
    yield { close: this.#descriptor };
    if (this.#owned) for (const space of this.#spaces) space.closed();
  }
}
