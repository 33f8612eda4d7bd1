import { expect, test } from '@jest/globals';
import { CmosClock, CmosState } from '../../dist/devices/cmos-clock.js';
import { SharedBoard } from '../../dist/vcpu/shared-board.js';
import { inChunks, savedState } from '../cold-migration.js';

const NOON = Date.UTC(2026, 10, 30, 12, 34, 56, 789);
const STATUS_B = 0x0b;
const TIME = { second: 0, minute: 2, hour: 4, weekday: 6, day: 7, month: 8, year: 9, century: 0x32 } as const;

function clock(board = new SharedBoard()) {
  const host = { now: NOON };
  const state = new CmosState(board);
  const device = new CmosClock(board, () => host.now);
  const read = (at: number): number => {
    device.write(0x70, 1, at);
    return device.read(0x71);
  };
  const write = (at: number, value: number): void => {
    device.write(0x70, 1, at);
    device.write(0x71, 1, value);
  };
  const time = () => Object.values(TIME).map(read);
  return { host, state, device, read, write, time };
}

test("the time is the host's, in decimal digits", () => {
  const { time, read } = clock();
  expect(time()).toEqual([0x56, 0x34, 0x12, 0x02, 0x30, 0x11, 0x26, 0x20]);
  expect([read(0x0a), read(STATUS_B), read(0x0c), read(0x0d)]).toEqual([0x26, 0x02, 0, 0x80]);
});

test('in binary numbers and with 12 hours, as the guest chooses', () => {
  const { host, write, time, read } = clock();
  write(STATUS_B, 0x04);
  expect(time()).toEqual([56, 34, 12 | 0x80, 2, 30, 11, 26, 20]);
  host.now = Date.UTC(2027, 0, 1, 0, 5);
  expect(read(TIME.hour)).toBe(12);
  host.now = Date.UTC(2027, 0, 1, 23, 5);
  expect(read(TIME.hour)).toBe(11 | 0x80);
});

test('the guest sets it, as a whole, and it goes on from there', () => {
  const { host, write, read, time } = clock();
  write(STATUS_B, 0x82);
  host.now += 5000;
  // It stands still while it is set.
  expect(read(TIME.second)).toBe(0x56);
  for (const [at, value] of [
    [TIME.second, 0x01],
    [TIME.minute, 0x02],
    [TIME.hour, 0x03],
    [TIME.day, 0x04],
    [TIME.month, 0x05],
    [TIME.year, 0x99],
    [TIME.century, 0x19],
  ] as const) {
    write(at, value);
  }
  write(STATUS_B, 0x02);
  expect(time()).toEqual([0x01, 0x02, 0x03, 0x03, 0x04, 0x05, 0x99, 0x19]);
  host.now += 60_000;
  expect(read(TIME.minute)).toBe(0x03);
});

test('one byte of the time is set while it runs', () => {
  const { write, time } = clock();
  write(TIME.hour, 0x22);
  expect(time()).toEqual([0x56, 0x34, 0x22, 0x02, 0x30, 0x11, 0x26, 0x20]);
});

test('bytes that are no time do no harm', () => {
  const { write, time, read } = clock();
  for (const at of Object.values(TIME)) write(at, 0xff);
  expect(time().every((byte) => byte >= 0 && byte <= 0xff)).toBe(true);
  write(STATUS_B, 0xff);
  // No interrupt can be enabled: nothing raises it.
  expect(read(STATUS_B)).toBe(0x86);
});

test('memory and time move with the guest', async () => {
  const from = clock();
  from.write(0x40, 0x5a);
  from.write(TIME.year, 0x30);
  from.device.write(0x70, 1, 0x40);
  const board = new SharedBoard();
  const next = clock(board);
  await next.state.load(inChunks(await savedState(from.state)), 1);
  expect(next.device.read(0x71)).toBe(0x5a);
  next.host.now = NOON + 3_600_000;
  expect([next.read(TIME.year), next.read(TIME.hour)]).toEqual([0x30, 0x13]);
  await expect(next.state.load(inChunks(await savedState(from.state)), 2)).rejects.toMatchObject({
    code: 'GODWIT_DEVICE_FAILED',
  });
});

test('the port of the number cannot be read, and its highest bit is not part of it', () => {
  const { device } = clock();
  device.write(0x70, 1, 0x80 | TIME.minute);
  expect([device.read(0x70), device.read(0x71)]).toEqual([0xff, 0x34]);
});
