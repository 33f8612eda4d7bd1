import type { IoctlArgument } from '@godwit/linux/unstable';
import type { KernelPort } from '@godwit/vfio';
import { Type1, VFIO_DIRTY_BITMAP } from '@godwit/vfio/unstable';

/** A kernel whose dirty logs are read late: `before` runs before each GET_BITMAP. */
export class LateReads implements KernelPort {
  /** The work that each read waits for. */
  before: () => Promise<void> = async () => {};
  readonly #kernel: KernelPort;

  constructor(kernel: KernelPort) {
    this.#kernel = kernel;
  }

  open = (path: string): number => this.#kernel.open(path);
  close = (fd: number): void => this.#kernel.close(fd);
  ioctl = (fd: number, request: number, argument?: IoctlArgument): number => this.#kernel.ioctl(fd, request, argument);
  read = (fd: number, buffer: Uint8Array): Promise<number> => this.#kernel.read(fd, buffer);
  write = (fd: number, buffer: Uint8Array): Promise<number> => this.#kernel.write(fd, buffer);

  ioctlAsync = async (fd: number, request: number, argument?: IoctlArgument): Promise<number> => {
    const reads = request === Type1.VFIO_IOMMU_DIRTY_PAGES && typeof argument === 'object';
    if (reads && argument.byteLength > VFIO_DIRTY_BITMAP.size) await this.before();
    return this.#kernel.ioctlAsync(fd, request, argument);
  };
}
