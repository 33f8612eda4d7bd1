import { StructBuffer } from '../layouts/struct-buffer.js';
import { addressOf, ioctl, tryIoctl } from '../libc/index.js';
import { KvmVcpuRequest } from './kvm-constants.js';
import { kvmDeviceAttr } from './kvm-structs.js';

/** An attribute of 64 bits behind a descriptor of KVM: Documentation/virt/kvm/devices. */
export interface KvmAttribute {
  readonly name: string;
  readonly group: number;
  readonly attribute: number;
}

/** Whether the descriptor has the attribute. */
export function hasAttribute(fd: number, attribute: KvmAttribute): boolean {
  return tryIoctl(fd, KvmVcpuRequest.KVM_HAS_DEVICE_ATTR, request(attribute, 0n)) >= 0;
}

/** The value of an attribute. Throws `SyscallError`. */
export function getAttribute(fd: number, attribute: KvmAttribute): bigint {
  const value = new BigUint64Array(1);
  ioctl(fd, KvmVcpuRequest.KVM_GET_DEVICE_ATTR, request(attribute, addressOf(value)), attribute.name);
  return value[0] as bigint;
}

/** Sets an attribute. Throws `SyscallError`. */
export function setAttribute(fd: number, attribute: KvmAttribute, value: bigint): void {
  const bytes = BigUint64Array.of(BigInt.asUintN(64, value));
  ioctl(fd, KvmVcpuRequest.KVM_SET_DEVICE_ATTR, request(attribute, addressOf(bytes)), attribute.name);
}

function request({ group, attribute }: KvmAttribute, address: bigint): Uint8Array {
  return new StructBuffer(kvmDeviceAttr).set('group', group).set('attr', attribute).set('addr', address).bytes;
}
