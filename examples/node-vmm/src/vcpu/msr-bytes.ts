import { GodwitError } from '@godwit/core';
import type { MsrValue } from '@godwit/linux/kvm';

const MSR_BYTES = 12;

/** The bytes of MSRs: u32 index, u64 value each. */
export function packMsrs(values: readonly MsrValue[]): Uint8Array {
  const bytes = new Uint8Array(values.length * MSR_BYTES);
  const view = new DataView(bytes.buffer);
  values.forEach(({ index, value }, i) => {
    view.setUint32(i * MSR_BYTES, index, true);
    view.setBigUint64(i * MSR_BYTES + 4, value, true);
  });
  return bytes;
}

/** @throws GodwitError GODWIT_DEVICE_FAILED for a number of bytes that no MSRs have */
export function unpackMsrs(device: string, bytes: Uint8Array): MsrValue[] {
  if (bytes.byteLength % MSR_BYTES !== 0) {
    throw new GodwitError(
      'GODWIT_DEVICE_FAILED',
      `the MSRs of ${device} are ${bytes.byteLength} bytes, not a multiple of ${MSR_BYTES}`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: bytes.byteLength / MSR_BYTES }, (_, i) => ({
    index: view.getUint32(i * MSR_BYTES, true),
    value: view.getBigUint64(i * MSR_BYTES + 4, true),
  }));
}
