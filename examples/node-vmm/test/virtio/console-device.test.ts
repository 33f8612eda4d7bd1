import { afterEach, expect, test } from '@jest/globals';
import { ConsoleDevice } from '../../dist/virtio/console-device.js';
import { inChunks, savedState } from '../cold-migration.js';
import { MadeDevice } from './made-device.js';

const made: MadeDevice[] = [];
afterEach(() => Promise.all(made.splice(0).map((one) => one.close())));
const bytes = (text: string) => new Uint8Array(Buffer.from(text));
const text = (of: Uint8Array | undefined) => Buffer.from(of ?? []).toString();

function running() {
  const device = new ConsoleDevice();
  const printed: string[] = [];
  device.connect((piece) => printed.push(text(piece)));
  const one = MadeDevice.running(device);
  made.push(one);
  const [receive, transmit] = one.driver.queues;
  if (receive === undefined || transmit === undefined) throw new Error('a console has two queues');
  return { one, device, printed, receive, transmit };
}

test('prints what the guest transmits', async () => {
  const { one, printed, transmit } = running();
  transmit.add([{ out: bytes('hello, ') }, { out: bytes('world\n') }]);
  transmit.add([{ out: bytes('$ ') }]);
  transmit.kick();
  await one.used(2, 1);
  expect(printed).toEqual(['hello, world\n', '$ ']);
});

test('what is typed goes into the buffers that are there, and waits for more', async () => {
  const { one, device, receive } = running();
  device.typeIn(bytes('early'));
  receive.add([{ room: 3 }]);
  receive.add([{ room: 100 }]);
  receive.add([{ room: 100 }]);
  receive.kick();
  expect((await one.used(2)).map(({ written }) => text(written))).toEqual(['ear', 'ly']);
  device.typeIn(bytes('later'));
  expect(text((await one.used(1))[0]?.written)).toBe('later');
});

test('input that the guest has not read moves with it', async () => {
  const { one, device } = running();
  device.typeIn(bytes('not read'));
  await one.transport.stop();
  const next = new MadeDevice(new ConsoleDevice(), one.memory);
  await next.state.load(inChunks(await savedState(one.state), 10), 1);
  next.transport.start();
  next.driver.queues[0]?.add([{ room: 100 }]);
  next.driver.queues[0]?.kick();
  expect(text((await next.used(1))[0]?.written)).toBe('not read');
  await next.transport.stop();
});

test('a mebibyte is the most that waits', () => {
  const { device } = running();
  device.typeIn(new Uint8Array(2 ** 20));
  expect(() => device.typeIn(bytes('x'))).toThrow(
    expect.objectContaining({ code: 'GODWIT_INVALID_STATE', message: expect.stringContaining('hvc0') }),
  );
});
