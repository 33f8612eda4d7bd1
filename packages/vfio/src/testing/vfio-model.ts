import { GodwitError } from '@godwit/core';
import { SyscallError } from '@godwit/linux';
import { addressOf, Errno, type IoctlArgument } from '@godwit/linux/unstable';
import type { KernelPort } from '../kernel-port.js';
import { VFIO_GROUP_STATUS, Vfio } from '../layouts/vfio-setup.js';
import { DeviceModel, type DeviceModelOptions } from './device-model.js';
import { IommufdModel } from './iommufd-model.js';
import { Type1Model, type Type1ModelOptions } from './type1-model.js';
import { copyFromUser, copyToUser } from './user-memory.js';

/** An IOMMU group of a `VfioModel`. */
export interface ModelGroup {
  readonly number: number;
  /** The devices by name, as in sysfs. */
  readonly devices?: Readonly<Record<string, DeviceModelOptions>>;
  /** Default true. */
  readonly viable?: boolean;
}

type Opened =
  | { readonly kind: 'container'; type1: Type1Model | null; groups: number }
  | { readonly kind: 'group'; readonly group: ModelGroup; container: Extract<Opened, { kind: 'container' }> | null }
  | { readonly kind: 'device'; readonly model: DeviceModel; readonly group: ModelGroup }
  | { readonly kind: 'session'; readonly model: DeviceModel }
  | { readonly kind: 'iommufd'; readonly model: IommufdModel };

/** linux/vfio.h */
const VFIO_DMA_CC_IOMMU = 4;
const VFIO_UPDATE_VADDR = 10;

/** The first descriptor of the model, far above any that the process has. */
const FIRST_FD = 1_000_000;

/**
 * The kernel's side of VFIO, in this process: containers, groups and devices as Linux 6.12 has them (drivers/vfio), for
 * tests where there is no IOMMU. Pointers are real addresses of this process.
 *
 * @example
 * const kernel = new VfioModel([{ number: 7, devices: { nic: { logging: true } } }]);
 * const container = Type1Container.open([VfioGroup.open(7, kernel)], kernel);
 */
export class VfioModel implements KernelPort {
  readonly devices = new Map<string, DeviceModel>();
  /** The requests of all calls on containers, in order. */
  readonly requests: number[] = [];
  /** Set to make the next requests of a number fail with an errno, before the model sees them. */
  readonly failures = new Map<number, number>();
  readonly #groups: readonly ModelGroup[];
  readonly #type1: Type1ModelOptions;
  readonly #open = new Map<number, Opened>();
  #nextFd = FIRST_FD;

  constructor(groups: readonly ModelGroup[], type1: Type1ModelOptions = {}) {
    this.#groups = groups;
    this.#type1 = type1;
  }

  /** Descriptors that are still open. */
  get openDescriptors(): number {
    return this.#open.size;
  }

  /** The IOMMU of a container's descriptor. */
  type1(fd: number): Type1Model {
    const opened = this.#open.get(fd);
    if (opened?.kind === 'container' && opened.type1 !== null) return opened.type1;
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `${fd} is no container with an IOMMU`);
  }

  /** The model of an iommufd's descriptor. */
  iommufd(fd: number): IommufdModel {
    const opened = this.#open.get(fd);
    if (opened?.kind === 'iommufd') return opened.model;
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `${fd} is no iommufd`);
  }

  open(path: string): number {
    if (path === '/dev/iommu') return this.#add({ kind: 'iommufd', model: new IommufdModel() });
    if (path === '/dev/vfio/vfio') return this.#add({ kind: 'container', type1: null, groups: 0 });
    const group = this.#groups.find(({ number }) => path === `/dev/vfio/${number}`);
    if (group === undefined) throw new SyscallError('open', Errno.ENOENT, path, { code: 'GODWIT_UNSUPPORTED' });
    const taken = [...this.#open.values()].some((opened) => opened.kind === 'group' && opened.group === group);
    if (taken) throw new SyscallError('open', Errno.EBUSY, path);
    return this.#add({ kind: 'group', group, container: null });
  }

  close(fd: number): void {
    const opened = this.#open.get(fd);
    if (opened === undefined) throw new SyscallError('close', Errno.EBADF, String(fd));
    if (opened.kind === 'group' && opened.container !== null) leave(opened.container);
    this.#open.delete(fd);
  }

  ioctl(fd: number, request: number, argument: IoctlArgument = 0): number {
    const opened = this.#open.get(fd);
    if (opened === undefined) return -Errno.EBADF;
    const failure = this.failures.get(request);
    if (failure !== undefined) return -failure;
    const pointer = typeof argument === 'object' ? addressOf(argument) : BigInt(argument);
    switch (opened.kind) {
      case 'container':
        return this.#container(opened, request, pointer);
      case 'group':
        return this.#group(opened, request, pointer);
      case 'device':
        return opened.model.ioctl(request, pointer);
      case 'session':
        return opened.model.sessionIoctl(fd, request, pointer);
      case 'iommufd':
        return opened.model.ioctl(request, pointer);
    }
  }

  async ioctlAsync(fd: number, request: number, argument: IoctlArgument = 0): Promise<number> {
    await Promise.resolve();
    return this.ioctl(fd, request, argument);
  }

  async read(fd: number, buffer: Uint8Array): Promise<number> {
    await Promise.resolve();
    const opened = this.#open.get(fd);
    return opened?.kind === 'session' ? opened.model.read(fd, buffer) : -Errno.EBADF;
  }

  async write(fd: number, buffer: Uint8Array): Promise<number> {
    await Promise.resolve();
    const opened = this.#open.get(fd);
    return opened?.kind === 'session' ? opened.model.write(fd, buffer) : -Errno.EBADF;
  }

  #add(opened: Opened): number {
    const fd = this.#nextFd++;
    this.#open.set(fd, opened);
    return fd;
  }

  #container(container: Extract<Opened, { kind: 'container' }>, request: number, argument: bigint): number {
    this.requests.push(request);
    switch (request) {
      case Vfio.VFIO_GET_API_VERSION:
        return Vfio.VFIO_API_VERSION;
      case Vfio.VFIO_CHECK_EXTENSION:
        return this.#extension(container, Number(argument));
      case Vfio.VFIO_SET_IOMMU:
        if (container.groups === 0 || container.type1 !== null) return -Errno.EINVAL;
        if (argument !== BigInt(Vfio.VFIO_TYPE1v2_IOMMU) && argument !== BigInt(Vfio.VFIO_TYPE1_IOMMU)) {
          return -Errno.ENODEV;
        }
        container.type1 = new Type1Model({ ...this.#type1, versionOne: argument === BigInt(Vfio.VFIO_TYPE1_IOMMU) });
        return 0;
      default:
        return container.type1 === null ? -Errno.EINVAL : container.type1.ioctl(request, argument);
    }
  }

  #hasOpenDevice(group: ModelGroup): boolean {
    return [...this.#open.values()].some((opened) => opened.kind === 'device' && opened.group === group);
  }

  /** VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU, VFIO_TYPE1_NESTING_IOMMU and VFIO_UNMAP_ALL; then what devices allow. */
  #extension({ type1 }: Extract<Opened, { kind: 'container' }>, id: number): number {
    if (type1 !== null && id === VFIO_DMA_CC_IOMMU) return this.#type1.iommu === true ? 0 : 1;
    if (type1 !== null && id === VFIO_UPDATE_VADDR) return this.#type1.iommu === true ? 1 : 0;
    return [1, 3, 6, 9].includes(id) ? 1 : 0;
  }

  #group(opened: Extract<Opened, { kind: 'group' }>, request: number, argument: bigint): number {
    switch (request) {
      case Vfio.VFIO_GROUP_GET_STATUS:
        return this.#status(opened, argument);
      case Vfio.VFIO_GROUP_SET_CONTAINER: {
        const bytes = copyFromUser(argument, 4);
        if (bytes === null) return -Errno.EFAULT;
        if (opened.container !== null) return -Errno.EINVAL;
        const fd = new DataView(bytes.buffer).getInt32(0, true);
        const target = this.#open.get(fd);
        if (target === undefined) return -Errno.EBADF;
        if (target.kind !== 'container') return -Errno.EBADFD;
        target.groups++;
        opened.container = target;
        return 0;
      }
      case Vfio.VFIO_GROUP_UNSET_CONTAINER: {
        if (opened.container === null) return -Errno.EINVAL;
        if (this.#hasOpenDevice(opened.group)) return -Errno.EBUSY;
        leave(opened.container);
        opened.container = null;
        return 0;
      }
      case Vfio.VFIO_GROUP_GET_DEVICE_FD:
        return this.#deviceFd(opened, argument);
      default:
        return -Errno.ENOTTY;
    }
  }

  #status({ group, container }: Extract<Opened, { kind: 'group' }>, argument: bigint): number {
    const bytes = copyFromUser(argument, VFIO_GROUP_STATUS.size);
    if (bytes === null) return -Errno.EFAULT;
    const view = new DataView(bytes.buffer);
    if (view.getUint32(0, true) < VFIO_GROUP_STATUS.size) return -Errno.EINVAL;
    const viable = group.viable === false ? 0 : Vfio.VFIO_GROUP_FLAGS_VIABLE;
    view.setUint32(4, viable | (container === null ? 0 : Vfio.VFIO_GROUP_FLAGS_CONTAINER_SET), true);
    return copyToUser(argument, bytes) ? 0 : -Errno.EFAULT;
  }

  #deviceFd({ group, container }: Extract<Opened, { kind: 'group' }>, argument: bigint): number {
    if (container === null || container.type1 === null) return -Errno.EINVAL;
    let name = '';
    for (let at = argument; ; at++) {
      const byte = copyFromUser(at, 1)?.[0];
      if (byte === undefined) return -Errno.EFAULT;
      if (byte === 0) break;
      name += String.fromCharCode(byte);
    }
    const options = group.devices?.[name];
    if (options === undefined) return -Errno.ENODEV;
    const model: DeviceModel = new DeviceModel(options, () => this.#add({ kind: 'session', model }));
    this.devices.set(name, model);
    return this.#add({ kind: 'device', model, group });
  }
}

/** Takes a group out of its container, which loses its IOMMU with its last group. */
function leave(container: Extract<Opened, { kind: 'container' }>): void {
  container.groups--;
  if (container.groups === 0) container.type1 = null;
}
