import { expect, test } from '@jest/globals';
import { acpiChecksum, acpiTables } from '../../dist/linux/acpi-tables.js';
import { eventScope } from '../../dist/linux/event-device.js';

const text = (bytes: Uint8Array) => Buffer.from(bytes).toString('latin1');

test('the machine has an event device with two interrupts, triggered by an edge', () => {
  const aml = eventScope();
  const said = text(aml);
  expect(said).toContain('_HID\x0dACPI0013\0');
  const at = said.indexOf('_CRS');
  // A buffer of 20 bytes: two interrupts of 9, and the end.
  expect([...aml.subarray(at + 4, at + 8)]).toEqual([0x11, 0x17, 0x0a, 20]);
  for (const [i, irq] of [10, 11].entries()) {
    expect([...aml.subarray(at + 8 + 9 * i, at + 17 + 9 * i)]).toEqual([0x89, 6, 0, 3, 1, irq, 0, 0, 0]);
  }
});

test('each interrupt notifies its device', () => {
  const said = text(eventScope());
  // If (LEqual (Arg0, irq)) { Notify (DEVICE, 0x80) }
  const notifies = (irq: string, target: string) => `\xa0\x0c\x93\x68\x0a${irq}\x86${target}\x0a\x80`;
  expect(said).toContain(`_EVT\x09${notifies('\x0a', 'VGEN')}${notifies('\x0b', 'PWRB')}`);
});

test('the generation has the names that guests look for, and an address', () => {
  const said = text(eventScope());
  expect(said).toContain('_HID\x0dVMGENCTR\0');
  expect(said).toContain('_CID\x0dVM_Gen_Counter\0');
  expect(said).toContain('ADDR\x12\x08\x02\x0c\x00\xf0\x0f\x00\x00');
});

test('the DSDT has them, and the FADT neither a fixed power button nor a missing clock', () => {
  const { bytes } = acpiTables(64, 3);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const table = (signature: string) => {
    const at = text(bytes).indexOf(signature);
    return { at, bytes: bytes.subarray(at, at + view.getUint32(at + 4, true)) };
  };
  for (const signature of ['DSDT', 'FACP', 'APIC', 'XSDT']) expect(acpiChecksum(table(signature).bytes)).toBe(0);
  expect(text(table('DSDT').bytes)).toContain('VGEN');
  const { at } = table('FACP');
  expect(view.getUint16(at + 109, true)).toBe(0x5);
  expect(view.getUint32(at + 112, true) & 0x10).toBe(0x10);
  // 64 local APICs, each with the number of its vCPU.
  const madt = table('APIC').bytes;
  const ids = Array.from({ length: 64 }, (_, i) => [...madt.subarray(44 + 8 * i, 48 + 8 * i)]);
  expect(ids).toEqual(Array.from({ length: 64 }, (_, i) => [0, 8, i, i]));
});
