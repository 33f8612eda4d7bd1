import { addressOf, cFunction, lastErrno } from '@godwit/linux/unstable';

type Vector = BigUint64Array;
const readv = cFunction<[number, Vector, number, Vector, number, number], number>('process_vm_readv', 'long', [
  'int',
  'void *',
  'unsigned long',
  'void *',
  'unsigned long',
  'unsigned long',
]);
const writev = cFunction<[number, Vector, number, Vector, number, number], number>('process_vm_writev', 'long', [
  'int',
  'void *',
  'unsigned long',
  'void *',
  'unsigned long',
  'unsigned long',
]);

/**
 * `copy_from_user`: bytes of this process at an address, or null when they cannot all be read. A system call reads the
 * memory, so that a bad pointer in a struct gives EFAULT and does not end the process.
 *
 * @example
 * const request = copyFromUser(argument, 16);
 * if (request === null) return -EFAULT;
 */
export function copyFromUser(address: bigint, byteLength: number): Uint8Array | null {
  const bytes = new Uint8Array(byteLength);
  return copied(readv, bytes, address) ? bytes : null;
}

/**
 * `copy_to_user`: returns false when not every byte can be written.
 *
 * @example
 * if (!copyToUser(argument, reply)) return -EFAULT;
 */
export function copyToUser(address: bigint, bytes: Uint8Array): boolean {
  return copied(writev, bytes, address);
}

function copied(call: typeof readv, bytes: Uint8Array, address: bigint): boolean {
  if (bytes.byteLength === 0) return true;
  const local = new BigUint64Array([addressOf(bytes), BigInt(bytes.byteLength)]);
  const remote = new BigUint64Array([address, BigInt(bytes.byteLength)]);
  const result = call(process.pid, local, 1, remote, 1, 0);
  if (result === bytes.byteLength) return true;
  if (result === -1 && lastErrno() === 1) throw new Error('process_vm_readv is forbidden here: the model cannot run');
  return false;
}
