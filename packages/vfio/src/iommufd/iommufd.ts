import { GodwitError } from '@godwit/core';
import { Errno, StructBuffer } from '@godwit/linux';
import { type KernelPort, linuxKernel } from '../kernel-port.js';
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
import { Ioas } from './ioas.js';

/** /dev/iommu: what is to replace containers (Linux 6.2). Objects in it have numbers; they end with it. */
export class Iommufd {
  readonly fd: number;
  readonly port: KernelPort;
  readonly #owned: boolean;
  #open = true;

  private constructor(fd: number, owned: boolean, port: KernelPort) {
    this.fd = fd;
    this.port = port;
    this.#owned = owned;
  }

  /** @throws SyscallError GODWIT_UNSUPPORTED on a kernel without it, GODWIT_PERMISSION */
  static open(port: KernelPort = linuxKernel): Iommufd {
    return new Iommufd(port.open('/dev/iommu'), true, port);
  }

  /** One that the embedder has open already; `fd` stays its own. */
  static adopt(fd: number, port: KernelPort = linuxKernel): Iommufd {
    return new Iommufd(fd, false, port);
  }

  /** A new I/O address space, with nothing mapped. */
  allocateIoas(): Ioas {
    const argument = new StructBuffer(IOMMU_IOAS_ALLOC).set('size', IOMMU_IOAS_ALLOC.size);
    this.call(IommufdRequest.IOMMU_IOAS_ALLOC, argument.bytes, 'IOMMU_IOAS_ALLOC');
    return new Ioas(this, argument.get('out_ioas_id'));
  }

  /** Whether the IOMMU behind a device can log which pages were written (IOMMU_GET_HW_INFO). */
  tracksDirtyPages(deviceId: number): boolean {
    const info = new StructBuffer(IOMMU_HW_INFO).set('size', IOMMU_HW_INFO.size).set('dev_id', deviceId);
    const result = this.port.ioctl(this.fd, IommufdRequest.IOMMU_GET_HW_INFO, info.bytes);
    // Not a device with an IOMMU of its own: a mediated device.
    if (result === -Errno.ENOENT || result === -Errno.EOPNOTSUPP) return false;
    succeeded(result, 'IOMMU_GET_HW_INFO', `of device ${deviceId}`);
    return (info.getBigInt('out_capabilities') & BigInt(IommufdFlag.IOMMU_HW_CAP_DIRTY_TRACKING)) !== 0n;
  }

  /**
   * A page table of the IOMMU's that can log writes, over an address space. Attach devices to it, not to the address space.
   *
   * @throws SyscallError GODWIT_UNSUPPORTED when the IOMMU behind the device cannot
   */
  allocateTracking(deviceId: number, ioas: Ioas): HardwarePagetable {
    const argument = new StructBuffer(IOMMU_HWPT_ALLOC)
      .set('size', IOMMU_HWPT_ALLOC.size)
      .set('flags', IommufdFlag.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
      .set('dev_id', deviceId)
      .set('pt_id', ioas.id);
    succeeded(
      this.port.ioctl(this.fd, IommufdRequest.IOMMU_HWPT_ALLOC, argument.bytes),
      'IOMMU_HWPT_ALLOC',
      `for device ${deviceId} with dirty tracking`,
      { [Errno.EOPNOTSUPP]: { code: 'GODWIT_UNSUPPORTED', advice: 'the IOMMU behind this device cannot log writes' } },
    );
    return new HardwarePagetable(this, argument.get('out_hwpt_id'), ioas);
  }

  /** Ends an object that nothing uses any more. */
  destroy(id: number): void {
    const argument = new StructBuffer(IOMMU_DESTROY).set('size', IOMMU_DESTROY.size).set('id', id);
    this.call(IommufdRequest.IOMMU_DESTROY, argument.bytes, 'IOMMU_DESTROY');
  }

  call(request: number, argument: Uint8Array, name: string): void {
    if (!this.#open) throw new GodwitError('GODWIT_INVALID_STATE', 'the iommufd is closed');
    succeeded(this.port.ioctl(this.fd, request, argument), name, `on iommufd ${this.fd}`);
  }

  /** Idempotent. Leaves an adopted descriptor alone. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    if (this.#owned) this.port.close(this.fd);
  }
}
