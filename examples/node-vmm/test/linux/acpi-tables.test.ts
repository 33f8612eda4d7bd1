import { expect, test } from '@jest/globals';
import { ACPI_ADDRESS, acpiChecksum, acpiTables } from '../../dist/linux/acpi-tables.js';

const { address, bytes } = acpiTables(2);
const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const text = (at: number, length: number) => Buffer.from(bytes.subarray(at, at + length)).toString('latin1');

/** The table at a guest-physical address. */
function tableAt(guestAddress: number) {
  const at = guestAddress - ACPI_ADDRESS;
  return { at, signature: text(at, 4), table: bytes.subarray(at, at + view.getUint32(at + 4, true)) };
}

const xsdt = tableAt(Number(view.getBigUint64(24, true)));
const entries = Array.from({ length: (xsdt.table.byteLength - 36) / 8 }, (_, i) =>
  tableAt(Number(view.getBigUint64(xsdt.at + 36 + 8 * i, true))),
);
const fadt = entries.find(({ signature }) => signature === 'FACP');
const madt = entries.find(({ signature }) => signature === 'APIC');

test('the root pointer is at the start, with both checksums, and leads to every table', () => {
  expect(address).toBe(0xe_0000);
  expect(text(0, 8)).toBe('RSD PTR ');
  expect(acpiChecksum(bytes.subarray(0, 20))).toBe(0);
  expect(acpiChecksum(bytes.subarray(0, 36))).toBe(0);
  expect([xsdt, ...entries].map(({ signature, table }) => [signature, acpiChecksum(table)])).toEqual([
    ['XSDT', 0],
    ['FACP', 0],
    ['APIC', 0],
  ]);
});

test('the fixed description names the DSDT twice, the FACS, the power port and the reset command', () => {
  const at = fadt?.at ?? 0;
  expect(fadt?.table).toHaveLength(276);
  const dsdt = tableAt(view.getUint32(at + 40, true));
  expect(dsdt.signature).toBe('DSDT');
  expect(acpiChecksum(dsdt.table)).toBe(0);
  expect(Number(view.getBigUint64(at + 140, true))).toBe(view.getUint32(at + 40, true));
  // Name (_S5_, Package (4) { 5, 0, 0, 0 })
  expect([...dsdt.table.subarray(36, 49)]).toEqual([8, 0x5f, 0x53, 0x35, 0x5f, 0x12, 7, 4, 0x0a, 5, 0, 0, 0]);
  expect(tableAt(view.getUint32(at + 36, true))).toMatchObject({ signature: 'FACS' });
  expect(view.getUint32(at + 36, true) % 64).toBe(0);
  expect([view.getUint32(at + 56, true), view.getUint32(at + 64, true)]).toEqual([0x600, 0x604]);
  expect([...bytes.subarray(at + 116, at + 129)]).toEqual([1, 8, 0, 1, 0x64, 0, 0, 0, 0, 0, 0, 0, 0xfe]);
  // A clock is there; neither a VGA nor a keyboard controller is promised.
  expect(view.getUint16(at + 109, true)).toBe(0x05);
});

test('the interrupt controllers: each processor with its APIC id, one IOAPIC, the interrupt of power management', () => {
  const at = madt?.at ?? 0;
  const found: number[][] = [];
  for (let offset = 44; offset < (madt?.table.byteLength ?? 0); offset += bytes[at + offset + 1] as number) {
    found.push([...bytes.subarray(at + offset, at + offset + (bytes[at + offset + 1] as number))]);
  }
  expect(found).toEqual([
    [0, 8, 0, 0, 1, 0, 0, 0],
    [0, 8, 1, 1, 1, 0, 0, 0],
    [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
    [2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0],
    [4, 6, 0xff, 0, 0, 1],
  ]);
});
