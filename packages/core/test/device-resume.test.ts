import type { MigratableDevice, PageChannel } from '@godwit/core';
import { engineParts } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { bytes, ScriptedDevice, senderOf, turn } from './played-device-link.js';

const { DeviceChannels } = engineParts;

const never = new AbortController().signal;

/** A device of three pieces, which are sent. */
async function sent(restart?: () => Promise<void>) {
  const disk: ScriptedDevice & MigratableDevice = new ScriptedDevice('disk');
  if (restart !== undefined) Object.assign(disk, { restart });
  disk.chunks.precopy = [bytes(1), bytes(2), bytes(3)];
  const played = senderOf([new ScriptedDevice('gpu'), disk], 4);
  await played.sender.precopy();
  disk.chunks.precopy = [];
  return { ...played, disk };
}

const piece = (sequence: number) => `device 1 piece ${sequence} attempt 0: ${sequence + 1}`;

describe('over a new connection', () => {
  test.each([
    [0, [0, 1, 2]],
    [1, [1, 2]],
    [3, []],
  ])('the destination expects piece %i: those from there on are sent again', async (expected, again) => {
    const { sender, use } = await sent();
    const { lines } = use();
    await sender.resume([0, expected], [0, 0]);
    expect(lines).toEqual(again.map(piece));
    // What is sent again does not count twice against what the destination holds: one more piece fits.
    expect(sender.sequences).toEqual([0, 3]);
  });

  test('what was acknowledged is not kept, and what was sent again is acknowledged with it', async () => {
    const { sender, use, disk } = await sent();
    await sender.arrival()();
    disk.chunks.precopy = [bytes(4)];
    await sender.precopy();
    const first = use();
    await sender.resume([0, 3], [0, 0]);
    expect(first.lines).toEqual([piece(3)]);
    await sender.arrival()();
    const second = use();
    await sender.resume([0, 4], [0, 0]);
    expect(second.lines).toEqual([]);
    await expect(sender.resume([0, 3], [0, 0])).rejects.toMatchObject({ code: 'GODWIT_PROTOCOL' });
  });

  test.each([
    ['that it has acknowledged', [0, 0], true],
    ['that was not sent', [0, 4], false],
    ['that was not sent, of another device', [1, 3], false],
    ['of too few devices', [0], false],
  ])('a destination that expects a piece %s is wrong', async (_, expected, acknowledged) => {
    const { sender, use } = await sent();
    if (acknowledged) await sender.arrival()();
    const { lines } = use();
    await expect(sender.resume(expected, [0, 0])).rejects.toMatchObject({ code: 'GODWIT_PROTOCOL' });
    expect(lines).toEqual([]);
  });

  test('what a device had yielded when the link was lost goes out first, before what it yields next', async () => {
    const disk = new ScriptedDevice('disk');
    const { sender, link, cut, use } = senderOf([disk]);
    link.onWrite = async ({ sequence }) => {
      if (sequence === 1) cut(new Error('the cable'));
    };
    disk.chunks.precopy = [bytes(1), bytes(2, 3, 4, 5, 6)];
    await expect(sender.precopy()).rejects.toThrow('the cable');
    await turn();
    const { lines } = use();
    disk.chunks.precopy = [bytes(7)];
    await sender.resume([1], [0]);
    // That link's loss is no failure of the device.
    await sender.precopy();
    expect(lines).toEqual([
      'device 0 piece 1 attempt 0: 2 3 4 5',
      'device 0 piece 2 attempt 0: 6',
      'device 0 piece 3 attempt 0: 7',
    ]);
  });

  test('a device that waits for room at the lost link stops waiting, and its piece waits at the next one', async () => {
    const disk = new ScriptedDevice('disk');
    const { sender, cut, use } = senderOf([disk], 1);
    disk.chunks.precopy = [bytes(1), bytes(2)];
    await sender.precopy();
    cut(new Error('the cable'));
    await turn();
    disk.chunks.precopy = [];
    const { lines } = use();
    const resuming = sender.resume([0], [0]);
    await turn();
    expect(lines).toEqual(['device 0 piece 0 attempt 0: 1']);
    sender.loaded(0, 1);
    await resuming;
    expect(lines.slice(1)).toEqual(['device 0 piece 1 attempt 0: 2']);
  });
});

test('over page channels a piece is kept until the destination says that it has come: a ping says nothing', async () => {
  const disk = new ScriptedDevice('disk');
  const { sender, link, use } = senderOf([disk]);
  const channel = { sendDevice: async () => {} } as unknown as PageChannel;
  let arrive: () => void = () => {};
  const asked: unknown[] = [];
  Object.assign(link, {
    deviceChannels: new DeviceChannels([channel], never),
    arrived: (attempt: number, sequences: readonly number[]) => {
      asked.push([attempt, sequences]);
      return new Promise<void>((resolve) => {
        arrive = resolve;
      });
    },
  });
  disk.chunks.precopy = [bytes(1), bytes(2)];
  await sender.precopy();
  const arrived = sender.arrival()();
  await turn();
  disk.chunks.precopy = [];
  await expect(sender.resume([1], [0])).resolves.toBeUndefined();
  arrive();
  await arrived;
  expect(asked).toEqual([[0, [2]]]);
  use();
  await expect(sender.resume([1], [0])).rejects.toMatchObject({ code: 'GODWIT_PROTOCOL' });
});

describe('a device that the destination has reset', () => {
  test('begins anew with its first piece: nothing that was kept is sent, and nothing of it is waited for', async () => {
    let restarts = 0;
    const { sender, lines, disk, use } = await sent(async () => void restarts++);
    lines.length = 0;
    await sender.restartReset([0, 1]);
    await sender.restartReset([0, 1]);
    expect([restarts, sender.sequences]).toEqual([1, [0, 0]]);
    // All four bytes that the destination holds are free again.
    disk.chunks.precopy = [bytes(9, 9, 9, 9)];
    await sender.precopy();
    expect(lines).toEqual(['device 1 piece 0 attempt 0: 9 9 9 9']);
    const next = use();
    await sender.resume([0, 0], [0, 2]);
    expect([restarts, sender.sequences, next.lines]).toEqual([2, [0, 0], []]);
  });

  test('fewer times than was known is wrong', async () => {
    const { sender } = await sent(async () => {});
    await sender.restartReset([1, 2]);
    for (const resets of [[1, 1], [0, 2], []]) {
      await expect(sender.restartReset(resets)).rejects.toMatchObject({ code: 'GODWIT_PROTOCOL' });
    }
    await sender.restartReset([1, 2]);
  });

  test('but cannot begin anew ends the migration, unless it has sent nothing', async () => {
    const { sender } = await sent();
    await sender.restartReset([1, 0]);
    await expect(sender.restartReset([1, 1])).rejects.toMatchObject({
      code: 'GODWIT_UNSUPPORTED',
      message: expect.stringContaining('lost the state of device "disk"'),
    });
  });

  test('and fails to begin anew has failed', async () => {
    const { sender } = await sent(async () => {
      throw new Error('on purpose');
    });
    await expect(sender.restartReset([0, 1])).rejects.toMatchObject({
      code: 'GODWIT_DEVICE_FAILED',
      message: 'device "disk" failed to begin again with its state: on purpose',
    });
  });

  test('drops what waits for room', async () => {
    const disk = Object.assign(new ScriptedDevice('disk'), { restart: async () => {} });
    const { sender, lines } = senderOf([disk], 2);
    disk.chunks.precopy = [bytes(1, 2), bytes(3, 4)];
    await sender.precopy();
    disk.chunks.precopy = [bytes(5, 6)];
    await sender.restartReset([1]);
    sender.loaded(0, 0);
    await turn();
    await sender.precopy();
    expect(lines).toEqual(['device 0 piece 0 attempt 0: 1 2', 'device 0 piece 0 attempt 0: 5 6']);
  });
});

test('a destination that was restarted gets everything anew, and its count of resets begins anew', async () => {
  let restarts = 0;
  const { sender, use, disk } = await sent(async () => void restarts++);
  await sender.restartReset([0, 3]);
  await sender.restart();
  expect([restarts, sender.sequences]).toEqual([2, [0, 0]]);
  disk.chunks.precopy = [bytes(1)];
  const { lines } = use();
  await sender.resume([0, 0], [0, 0]);
  await sender.precopy();
  expect(lines).toEqual([piece(0)]);
  expect(await sender.switchoverBlocker(never)).toBeUndefined();
});
