import { GodwitError } from '@godwit/core';
import type { KvmVcpu } from '@godwit/linux';

/** The error of a guest that cannot go on, with the registers of the vCPU, if they can be read. */
export function crashError(vcpu: KvmVcpu | undefined, index: number, reason: string, cause?: Error): GodwitError {
  let registers: string;
  try {
    registers = vcpu?.generalRegisters().toString() ?? 'no such vCPU';
  } catch (error) {
    registers = `registers cannot be read: ${String(error)}`;
  }
  return new GodwitError('GODWIT_GUEST_CRASHED', `vCPU ${index} cannot go on: ${reason}; ${registers}`, { cause });
}
