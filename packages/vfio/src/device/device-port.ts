import { type IoctlArgument, uninterrupted, uninterruptedAsync } from '@godwit/linux/unstable';
import type { Descriptor } from '../descriptor.js';
import type { KernelPort } from '../kernel-port.js';

/**
 * The kernel as one device uses it. Calls on the device's own descriptor are refused once it is closed, and delay its closing while
 * they are under way; every call that a signal interrupts is made again.
 */
export class DevicePort implements KernelPort {
  readonly #kernel: KernelPort;
  readonly #device: Descriptor;

  constructor(kernel: KernelPort, device: Descriptor) {
    this.#kernel = kernel;
    this.#device = device;
  }

  open(path: string): number {
    return this.#kernel.open(path);
  }

  close(fd: number): void {
    this.#kernel.close(fd);
  }

  async closeAsync(fd: number): Promise<void> {
    if (this.#kernel.closeAsync === undefined) this.#kernel.close(fd);
    else await this.#kernel.closeAsync(fd);
  }

  ioctl(fd: number, request: number, argument?: IoctlArgument): number {
    if (fd === this.#device.fd) return this.#device.ioctl(request, argument);
    return uninterrupted(() => this.#kernel.ioctl(fd, request, argument));
  }

  async ioctlAsync(fd: number, request: number, argument?: IoctlArgument): Promise<number> {
    if (fd === this.#device.fd) return this.#device.ioctlAsync(request, argument);
    return uninterruptedAsync(() => this.#kernel.ioctlAsync(fd, request, argument));
  }

  read(fd: number, buffer: Uint8Array): Promise<number> {
    return uninterruptedAsync(() => this.#kernel.read(fd, buffer));
  }

  write(fd: number, buffer: Uint8Array): Promise<number> {
    return uninterruptedAsync(() => this.#kernel.write(fd, buffer));
  }
}
