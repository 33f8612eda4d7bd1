import { Machine } from '@godwit/example-node-vmm';
import { afterEach, expect, test } from '@jest/globals';
import { SerialConsole } from '../../dist/devices/serial-console.js';
import { SERIAL_PORT, SerialPort } from '../../dist/devices/serial-port.js';
import { SerialWords } from '../../dist/devices/serial-words.js';
import { SharedBoard } from '../../dist/vcpu/shared-board.js';
import { moveGuest } from '../cold-migration.js';
import { NO_KVM, testUnless } from '../machine-kinds.js';

const testKvm = testUnless(NO_KVM);
const [DATA, ENABLE, IDENTIFICATION, LINE_CONTROL, MODEM_CONTROL, LINE_STATUS, MODEM_STATUS] = [
  0, 1, 2, 3, 4, 5, 6,
].map((register) => SERIAL_PORT + register) as [number, number, number, number, number, number, number];
const bytes = (text: string) => new Uint8Array(Buffer.from(text));

/** A port, its console, what it printed, and every level that its interrupt line was given. */
function made() {
  const words = new SerialWords(new SharedBoard());
  const printed: number[] = [];
  const levels: boolean[] = [];
  const setInterrupt = (high: boolean) => levels.push(high);
  const port = new SerialPort(words, (text) => printed.push(...text), setInterrupt);
  const console = new SerialConsole(words, setInterrupt, () => {});
  return { port, console, printed, levels };
}

test('input is read in order; while there is input, the interrupt line is high if that interrupt is enabled', () => {
  const { port, console, levels } = made();
  console.type(bytes('ab'));
  expect(levels).toEqual([]);
  expect(port.read(LINE_STATUS)).toBe(0x61);
  port.write(ENABLE, 1, 0x01);
  expect(levels).toEqual([true]);
  expect(port.read(IDENTIFICATION)).toBe(0x04);
  expect(port.read(DATA)).toBe(0x61);
  expect(levels).toEqual([true]);
  expect(port.read(DATA)).toBe(0x62);
  expect(levels).toEqual([true, false]);
  expect(port.read(LINE_STATUS)).toBe(0x60);
  expect(port.read(IDENTIFICATION)).toBe(0x01);
  console.type(bytes('c'));
  expect(levels).toEqual([true, false, true]);
});

test('a sent byte keeps the interrupt line high until the guest identifies the interrupt, and each further byte makes an edge', () => {
  const { port, printed, levels } = made();
  port.write(ENABLE, 1, 0x02);
  expect(levels).toEqual([true]);
  expect(port.read(IDENTIFICATION)).toBe(0x02);
  expect(levels).toEqual([true, false]);
  expect(port.read(IDENTIFICATION)).toBe(0x01);
  port.write(DATA, 1, 0x41);
  port.write(DATA, 1, 0x42);
  expect(levels).toEqual([true, false, true, false, true]);
  port.write(ENABLE, 1, 0);
  expect(levels.at(-1)).toBe(false);
  expect(printed).toEqual([0x41, 0x42]);
});

test('FIFOs are reported once they are enabled, and clearing the receiver drops the input', () => {
  const { port, console } = made();
  port.write(IDENTIFICATION, 1, 0x01);
  expect(port.read(IDENTIFICATION)).toBe(0xc1);
  console.type(bytes('lost'));
  port.write(IDENTIFICATION, 1, 0x03);
  expect(port.read(LINE_STATUS)).toBe(0x60);
  port.write(IDENTIFICATION, 1, 0x00);
  expect(port.read(IDENTIFICATION)).toBe(0x01);
});

test('only the four interrupts of a 16550 can be enabled; the divisor latch hides the data and the enable register', () => {
  const { port, printed } = made();
  port.write(ENABLE, 1, 0xff);
  expect(port.read(ENABLE)).toBe(0x0f);
  port.write(LINE_CONTROL, 1, 0x83);
  port.write(DATA, 1, 12);
  port.write(ENABLE, 1, 34);
  expect([port.read(DATA), port.read(ENABLE), port.read(LINE_CONTROL)]).toEqual([12, 34, 0x83]);
  port.write(LINE_CONTROL, 1, 0x03);
  expect(port.read(ENABLE)).toBe(0x0f);
  expect(printed).toEqual([]);
});

test('in loopback the outputs are seen as inputs, and nothing is sent', () => {
  const { port, printed } = made();
  expect(port.read(MODEM_STATUS)).toBe(0xb0);
  port.write(MODEM_CONTROL, 1, 0x1a);
  expect(port.read(MODEM_STATUS)).toBe(0x90);
  port.write(DATA, 1, 0x41);
  expect(printed).toEqual([]);
});

test('input for which the port has no room waits in the VMM, up to a mebibyte', () => {
  const { port, console } = made();
  console.type(new Uint8Array(2 ** 20));
  expect(() => console.type(new Uint8Array(5000))).toThrow(
    expect.objectContaining({ code: 'GODWIT_INVALID_STATE', message: expect.stringContaining('does not read') }),
  );
  for (let i = 0; i < 4096; i++) port.read(DATA);
  expect(port.read(LINE_STATUS)).toBe(0x60);
  console.close();
});

test('the state has the registers and the input, and loading it raises the interrupt that is due', async () => {
  const [from, to] = [made(), made()];
  from.port.write(IDENTIFICATION, 1, 0x01);
  from.port.write(ENABLE, 1, 0x01);
  from.console.type(bytes('xyz'));
  from.port.read(DATA);
  await to.console.load(from.console.save(), 2);
  expect(to.levels).toEqual([true]);
  expect(to.port.read(IDENTIFICATION)).toBe(0xc4);
  expect([to.port.read(DATA), to.port.read(DATA), to.port.read(LINE_STATUS)]).toEqual([0x79, 0x7a, 0x60]);
});

const machines: Machine[] = [];
afterEach(async () => {
  await Promise.all(machines.splice(0).map((machine) => machine.close()));
});

/**
 * A guest in real mode that sleeps, and answers each byte by interrupt 4 with the same letter in the other case:
 *
 *     mov al, 0x11; out 0x20, al; mov al, 8; out 0x21, al; mov al, 4; out 0x21, al; mov al, 1; out 0x21, al; mov al, 0xef; out 0x21, al
 *     mov word [0x30], handler; mov word [0x32], 0; mov dx, 0x3f9; mov al, 1; out dx, al; sti; again: hlt; jmp again
 *     handler: mov dx, 0x3f8; in al, dx; xor al, 0x20; out dx, al; mov dx, 0x3fd; in al, dx; test al, 1; jnz handler
 *     mov al, 0x20; out 0x20, al; iret
 */
const ANSWERS = Uint8Array.from([
  ...[0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x08, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21],
  ...[0xb0, 0xef, 0xe6, 0x21, 0xc7, 0x06, 0x30, 0x00, 0x2a, 0x7c, 0xc7, 0x06, 0x32, 0x00, 0x00, 0x00],
  ...[0xba, 0xf9, 0x03, 0xb0, 0x01, 0xee, 0xfb, 0xf4, 0xeb, 0xfd],
  ...[0xba, 0xf8, 0x03, 0xec, 0x34, 0x20, 0xee, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x75, 0xf1],
  ...[0xb0, 0x20, 0xe6, 0x20, 0xcf],
]);

/** Resolves once the machine has printed the text. */
function prints(machine: Machine, wanted: string): Promise<void> {
  let text = '';
  return new Promise((resolve) => {
    machine.console.subscribe((piece) => {
      text += piece;
      if (text.includes(wanted)) resolve();
    });
  });
}

testKvm('a guest that sleeps is woken by what is typed, also where it has moved to', async () => {
  const machine = await Machine.create({ memoryBytes: 16 * 2 ** 20, vcpus: 1, bootImage: ANSWERS });
  machines.push(machine);
  const answered = prints(machine, 'HELLO');
  await machine.resume();
  machine.type(bytes('hello'));
  await answered;
  await machine.pause();
  const next = await Machine.fromDescription(machine.description);
  machines.push(next);
  // Input that comes while the guest is paused moves with the guest.
  machine.type(bytes('moved'));
  await moveGuest(machine, next);
  const again = prints(next, 'MOVEDON');
  await next.resume();
  next.type(bytes('on'));
  await again;
});
