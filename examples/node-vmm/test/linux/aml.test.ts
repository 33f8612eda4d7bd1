import { expect, test } from '@jest/globals';
import { ACPI_ADDRESS, acpiChecksum, acpiTables } from '../../dist/linux/acpi-tables.js';
import { namedPackage, virtioScope } from '../../dist/linux/aml.js';

test('a package of numbers', () => {
  expect([...namedPackage('_S5_', [5, 0, 1])]).toEqual([8, 0x5f, 0x53, 0x35, 0x5f, 0x12, 6, 3, 0x0a, 5, 0, 1]);
});

test('no device is nothing', () => {
  expect(virtioScope(0)).toHaveLength(0);
});

test('each device has an id, a number, its registers, and its interrupt, triggered by a high level', () => {
  const scope = virtioScope(2);
  // Scope (\_SB_), with its length in two bytes.
  expect([...scope.subarray(0, 8)]).toEqual([
    0x10,
    0x40 | (lengthOf(scope, 1) & 0xf),
    lengthOf(scope, 1) >> 4,
    0x5c,
    0x5f,
    0x53,
    0x42,
    0x5f,
  ]);
  expect(lengthOf(scope, 1)).toBe(scope.byteLength - 1);
  for (const slot of [0, 1]) {
    const text = Buffer.from(scope).toString('latin1');
    const at = text.indexOf(`VIO${slot}`);
    expect([...scope.subarray(at - 3, at - 1)]).toEqual([0x5b, 0x82]);
    // Its length is in one byte.
    const end = at - 1 + (scope[at - 1] as number);
    expect(slot === 1 ? end : scope[end]).toBe(slot === 1 ? scope.byteLength : 0x5b);
    const body = text.slice(at, end);
    expect(body).toContain('_HID\x0dLNRO0005\0');
    expect(body).toContain(`_UID\x0c${String.fromCharCode(slot)}\0\0\0`);
    // A buffer of 23 bytes: 12 of memory, 9 of an interrupt, 2 of the end.
    expect(body).toContain('_CRS\x11\x1a\x0a\x17\x86\x09\x00\x01');
    const memory = at + body.indexOf('\x86\x09\x00\x01') + 4;
    const view = new DataView(scope.buffer, scope.byteOffset);
    expect([view.getUint32(memory, true), view.getUint32(memory + 4, true)]).toEqual([
      0xd000_0000 + slot * 0x1000,
      0x1000,
    ]);
    expect([...scope.subarray(memory + 8, memory + 13)]).toEqual([0x89, 6, 0, 1, 1]);
    expect(view.getUint32(memory + 13, true)).toBe(16 + slot);
    expect([...scope.subarray(memory + 17, memory + 19)]).toEqual([0x79, 0]);
  }
});

test('the DSDT of a machine with devices has them, and a checksum of 0', () => {
  const { bytes } = acpiTables(1, 3);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const at = Buffer.from(bytes).indexOf('DSDT');
  const table = bytes.subarray(at, at + view.getUint32(at + 4, true));
  expect(acpiChecksum(table)).toBe(0);
  expect(Buffer.from(table).toString('latin1')).toContain('VIO2');
  expect(ACPI_ADDRESS + at).toBeLessThan(0x10_0000);
});

/** A length that counts itself, in two bytes. */
function lengthOf(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) & 0xf) | ((bytes[at + 1] as number) << 4);
}
