import type { MigratableDevice } from '@godwit/core';
import { engineParts } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { bytes, ScriptedDevice, senderOf, turn } from './played-device-link.js';

const { DeviceSender, MOST_PIECES } = engineParts;

const never = new AbortController().signal;
const boom = () => {
  throw new Error('on purpose');
};

test.each(['save', 'precopy'] as const)(
  'of the state of %s no more pieces are under way than the destination holds, however small they are',
  async (which) => {
    const disk = new ScriptedDevice('disk');
    const { sender, link } = senderOf([disk], 2 ** 30);
    const over = MOST_PIECES + 3;
    disk.chunks[which] = Array(over).fill(bytes(1));
    let pieces = 0;
    const early: number[] = [];
    link.loadsEarly = true;
    link.write = async (frame) => {
      if (frame.type === 'device' && !frame.last) pieces++;
      if (frame.type === 'loadEarly') early.push(pieces);
    };
    const sending = which === 'save' ? sender.save(1, never) : sender.precopy();
    while (pieces < MOST_PIECES) await turn();
    for (let i = 0; i < 10; i++) await turn();
    expect([pieces, early]).toEqual([MOST_PIECES, which === 'save' ? [MOST_PIECES] : []]);
    sender.loaded(0, 2, which === 'save' ? 1 : 0);
    for (let i = 0; i < 10; i++) await turn();
    expect(pieces).toBe(MOST_PIECES + 2);
    sender.loaded(0, MOST_PIECES, which === 'save' ? 1 : 0);
    await sending;
    while (pieces < over) await turn();
  },
  60_000,
);

describe('state that moves while the guest runs', () => {
  test('goes device by device, in pieces that are counted over all rounds', async () => {
    const [disk, gpu] = [new ScriptedDevice('disk'), new ScriptedDevice('gpu')];
    const { sender, lines } = senderOf([disk, { ...plain('uart') }, gpu]);
    disk.chunks.precopy = [bytes(1, 2, 3, 4, 5), bytes(), bytes(6)];
    gpu.chunks.precopy = [bytes(7)];
    await sender.precopy();
    disk.chunks.precopy = [bytes(8)];
    await sender.precopy();
    expect(lines).toEqual([
      'device 0 piece 0 attempt 0: 1 2 3 4',
      'device 0 piece 1 attempt 0: 5',
      'device 0 piece 2 attempt 0: 6',
      'device 2 piece 0 attempt 0: 7',
      'device 0 piece 3 attempt 0: 8',
      'device 2 piece 1 attempt 0: 7',
    ]);
    expect(sender.sequences).toEqual([4, 0, 2]);
  });

  test.each([
    ['the most of a frame', 3, 1000, [3, 3, 3, 1]],
    ['the most that is held', 1000, 4, [4, 4, 2]],
    ['a byte at least', 0, 1000, Array(10).fill(1)],
  ])('is cut by %s', async (_, maximumPayload, maximumDeviceState, sizes) => {
    const disk = new ScriptedDevice('disk');
    const { sender, link } = senderOf([disk], maximumDeviceState, maximumPayload);
    const written: number[] = [];
    link.write = async (frame, payload = []) => {
      written.push(payload.reduce((sum, part) => sum + part.byteLength, 0));
      if (frame.type === 'device') sender.loaded(0, frame.sequence + 1);
    };
    disk.chunks.precopy = [new Uint8Array(10)];
    await sender.precopy();
    expect(written).toEqual(sizes);
  });

  test('is copied before the device is asked for more', async () => {
    const { sender, use } = senderOf([]);
    const buffer = new Uint8Array(2);
    const device: MigratableDevice = {
      ...plain('disk'),
      async *precopy() {
        for (let value = 1; value <= 3; value++) {
          buffer.fill(value);
          yield buffer;
        }
        buffer.fill(99);
      },
    };
    const reusing = senderOf([device]);
    await reusing.sender.precopy();
    const { lines } = reusing.use();
    await reusing.sender.resume([0], [0]);
    expect(lines.map((line) => line.split(': ')[1])).toEqual(['1 1', '2 2', '3 3']);
    // A VM without devices has nothing to send.
    await sender.precopy();
    expect(use().lines).toEqual([]);
  });

  test('is not kept beyond 16 MiB: a ping is answered first', async () => {
    const disk = new ScriptedDevice('disk');
    const { sender, link, use } = senderOf([disk], 2 ** 30, 2 ** 30);
    link.write = async () => {};
    disk.chunks.precopy = [new Uint8Array(2 ** 24 - 1)];
    await sender.precopy();
    expect(link.pings).toBe(0);
    disk.chunks.precopy = [new Uint8Array(1)];
    await sender.precopy();
    expect(link.pings).toBe(1);
    use();
    // No frame is larger than 1 MiB.
    await expect(sender.resume([16], [0])).rejects.toMatchObject({
      code: 'GODWIT_PROTOCOL',
      message: 'device "disk": the destination expects piece 16; it has acknowledged 17 and was sent 17',
    });
  });
});

describe('a destination that loads slowly', () => {
  test('is waited for beside the rounds: the device is not called meanwhile, and the guest is not paused', async () => {
    const [disk, gpu] = [new ScriptedDevice('disk'), new ScriptedDevice('gpu')];
    const { sender, lines } = senderOf([disk, gpu], 6);
    disk.chunks.precopy = [bytes(1, 2, 3, 4), bytes(5, 6), bytes(7)];
    await sender.precopy();
    expect(lines).toEqual(['device 0 piece 0 attempt 0: 1 2 3 4', 'device 0 piece 1 attempt 0: 5 6']);
    expect([disk.calls, gpu.calls]).toEqual([['precopy'], ['precopy']]);
    expect(await sender.switchoverBlocker(never)).toBe('device "disk", asked to pre-copy its state, has not returned');
    await sender.precopy();
    expect([disk.calls, gpu.calls]).toEqual([['precopy'], ['precopy', 'precopy']]);
    // A report that says nothing new makes no room.
    sender.loaded(0, 0);
    await turn();
    expect(lines).toHaveLength(2);
    sender.loaded(0, 1);
    await turn();
    expect(lines.slice(2)).toEqual(['device 0 piece 2 attempt 0: 7']);
    expect(await sender.switchoverBlocker(never)).toBeUndefined();
  });

  test.each([
    [0, 3],
    [1, 1],
    [2, 0],
  ])('that reports piece %i of device %i as loaded, which was not sent, is wrong', async (sequence, device) => {
    const disk = new ScriptedDevice('disk');
    const { sender } = senderOf([disk, new ScriptedDevice('gpu')]);
    disk.chunks.precopy = [bytes(1)];
    await sender.precopy();
    sender.loaded(0, 1);
    sender.loaded(0, 1);
    expect(() => sender.loaded(device, sequence)).toThrow(
      expect.objectContaining({
        code: 'GODWIT_PROTOCOL',
        message: `"loaded" names piece ${sequence} of device ${device}, which was not sent`,
      }),
    );
  });
});

describe('state that is saved with the guest paused', () => {
  test('is numbered from 0 for each device, ends with a piece of its own, and bears the attempt', async () => {
    const [disk, gpu] = [new ScriptedDevice('disk'), new ScriptedDevice('gpu')];
    const { sender, lines } = senderOf([disk, gpu]);
    disk.chunks.precopy = [bytes(1)];
    await sender.precopy();
    disk.chunks.save = [bytes(2, 3, 4, 5, 6)];
    gpu.chunks.save = [bytes(7)];
    lines.length = 0;
    for (const attempt of [1, 2]) await sender.save(attempt, never);
    const saved = (attempt: number) => [
      `device 0 piece 0 attempt ${attempt}: 2 3 4 5`,
      `device 0 piece 1 attempt ${attempt}: 6`,
      `device 0 piece 2 attempt ${attempt}: last`,
      `device 1 piece 0 attempt ${attempt}: 7`,
      `device 1 piece 1 attempt ${attempt}: last`,
    ];
    expect(lines).toEqual([...saved(1), ...saved(2)]);
    // It does not count as a piece of the state that moves while the guest runs.
    expect(sender.sequences).toEqual([1, 0]);
  });

  test.each([
    [6, undefined],
    [5, 'GODWIT_LIMIT_EXCEEDED'],
  ])('fits into %i bytes with what is not loaded yet: %p', async (maximumDeviceState, code) => {
    const [disk, gpu] = [new ScriptedDevice('disk'), new ScriptedDevice('gpu')];
    const { sender } = senderOf([disk, gpu], maximumDeviceState);
    disk.chunks.precopy = [bytes(1), bytes(2)];
    await sender.precopy();
    sender.loaded(0, 1);
    [disk.chunks.save, gpu.chunks.save] = [[bytes(3, 4, 5)], [bytes(6), bytes(7)]];
    const saving = sender.save(1, never);
    if (code === undefined) await saving;
    else {
      const message = expect.stringMatching(/^device "gpu" saves more than the destination holds .*\(5 bytes/);
      await expect(saving).rejects.toMatchObject({ code, message });
    }
  });

  test('is given up at once, and what comes late is not sent', async () => {
    const disk = new ScriptedDevice('disk');
    const { sender, lines } = senderOf([disk, new ScriptedDevice('gpu')]);
    let wake: () => void = () => {};
    const hanging = new Promise<void>((resolve) => {
      wake = resolve;
    });
    disk.chunks.save = (async function* () {
      yield bytes(1);
      await hanging;
      yield bytes(2);
    })();
    const stop = new AbortController();
    const saving = sender.save(1, stop.signal);
    await turn();
    const reason = new Error('given up');
    stop.abort(reason);
    await expect(saving).rejects.toBe(reason);
    expect(await sender.switchoverBlocker(never)).toBe('device "disk", asked to save its state, has not returned');
    wake();
    await turn();
    expect(lines).toEqual(['device 0 piece 0 attempt 1: 1']);
    expect(await sender.switchoverBlocker(never)).toBeUndefined();
  });

  test('arrives whole, however it comes and is cut', async () => {
    const chunk = fc.uint8Array({ maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(
        // Each device has at least a byte of state.
        fc.array(fc.array(chunk, { maxLength: 4 }).map((chunks) => [...chunks, bytes(1)])),
        fc.integer({ min: 1, max: 7 }),
        async (states, most) => {
          const devices = states.map((save, index) => {
            const device = new ScriptedDevice(`${index}`);
            device.chunks.save = save;
            return device;
          });
          const { sender, link } = senderOf(devices, 10_000, most);
          const arrived: number[][] = states.map(() => []);
          const next = states.map(() => 0);
          link.write = async (frame, payload = []) => {
            if (frame.type !== 'device') throw new Error(frame.type);
            expect(frame.sequence).toBe(next[frame.device]);
            next[frame.device] = frame.sequence + 1;
            const piece = payload.flatMap((part) => [...part]);
            expect(piece.length).toBeLessThanOrEqual(most);
            expect(piece.length === 0).toBe(frame.last);
            arrived[frame.device]?.push(...piece);
          };
          await sender.save(1, never);
          expect(arrived).toEqual(states.map((chunks) => chunks.flatMap((one) => [...one])));
        },
      ),
      { numRuns: 50 },
    );
  });
});

describe('what fails', () => {
  test.each([
    ['throws', boom, 'on purpose'],
    ['yields something else', () => ['text'] as unknown as Uint8Array[], 'chunks must be Uint8Arrays, got string'],
  ])("in a device that %s is the device's", async (_, chunks, why) => {
    const make = () => {
      const disk = new ScriptedDevice('disk');
      const iterable = { [Symbol.iterator]: () => chunks()[Symbol.iterator]() };
      disk.chunks.precopy = iterable;
      disk.chunks.save = iterable;
      return senderOf([disk]).sender;
    };
    const failed = (what: string) => ({
      code: 'GODWIT_DEVICE_FAILED',
      message: `device "disk" failed to ${what} its state: ${why}`,
    });
    await expect(make().precopy()).rejects.toMatchObject(failed('pre-copy'));
    await expect(make().save(1, never)).rejects.toMatchObject(failed('save'));
  });

  test("on the link is not the device's", async () => {
    const disk = new ScriptedDevice('disk');
    disk.chunks.precopy = [bytes(1)];
    disk.chunks.save = [bytes(1)];
    const { sender, link, use } = senderOf([disk]);
    const lost = new Error('the cable');
    link.onWrite = () => Promise.reject(lost);
    await expect(sender.precopy()).rejects.toBe(lost);
    use().link.onWrite = () => Promise.reject(lost);
    await expect(sender.save(1, never)).rejects.toBe(lost);
  });

  test('in a device beside the rounds ends the next one', async () => {
    const disk = new ScriptedDevice('disk');
    const { sender } = senderOf([disk], 1);
    disk.chunks.precopy = (async function* () {
      yield bytes(1, 2);
      boom();
    })();
    await sender.precopy();
    sender.loaded(0, 1);
    await turn();
    await expect(sender.precopy()).rejects.toMatchObject({ code: 'GODWIT_DEVICE_FAILED' });
  });

  test('before there is a link is a defect of the engine', async () => {
    const sender = new DeviceSender([new ScriptedDevice('disk')]);
    for (const work of [sender.precopy(), sender.save(1, never), sender.resume([0], [0])]) {
      await expect(work).rejects.toMatchObject({ code: 'GODWIT_INTERNAL' });
    }
  });
});

describe('what devices say of themselves', () => {
  test('sizes are whole bytes; what makes no sense is 0, and one that is busy says what it said last', async () => {
    const sizes = [1.2, -1, Number.NaN, Number.POSITIVE_INFINITY, 0, 7];
    const disk = new ScriptedDevice('disk');
    const devices = [...sizes.map((size, index) => ({ ...plain(`${index}`), stateBytes: () => size })), plain('none')];
    let size = 10;
    const { sender } = senderOf([...devices, Object.assign(disk, { stateBytes: async () => size })], 1);
    expect(await sender.reports.ask(never)).toEqual([2, 0, 0, 0, 0, 7, 0, 10]);
    size = 20;
    disk.chunks.precopy = [bytes(1), bytes(2)];
    await sender.precopy();
    expect((await sender.reports.ask(never)).at(-1)).toBe(10);
    sender.loaded(devices.length, 1);
    await turn();
    expect((await sender.reports.ask(never)).at(-1)).toBe(20);
    const broken = senderOf([{ ...plain('uart'), stateBytes: boom }]).sender;
    await expect(broken.reports.ask(never)).rejects.toMatchObject({
      message: 'device "uart" failed to tell the size of its state: on purpose',
    });
  });

  test('the first that blocks the switchover is named; one that fails to tell, or does not, ends the asking', async () => {
    const why = (id: string, switchoverBlocker: MigratableDevice['switchoverBlocker']) => ({
      ...plain(id),
      ...(switchoverBlocker && { switchoverBlocker }),
    });
    const sender = (...devices: MigratableDevice[]) => senderOf(devices).sender;
    const none = why('none', async () => undefined);
    const blocked = sender(
      plain('uart'),
      none,
      why('gpu', () => 'not yet'),
      why('disk', boom),
    );
    expect(await blocked.switchoverBlocker(never)).toBe('device "gpu": not yet');
    await expect(sender(why('disk', boom)).switchoverBlocker(never)).rejects.toMatchObject({
      message: 'device "disk" failed to tell what blocks its state: on purpose',
    });
    const stop = new AbortController();
    const asking = sender(why('disk', () => new Promise(() => {}))).switchoverBlocker(stop.signal);
    stop.abort(new Error('enough'));
    await expect(asking).rejects.toThrow('enough');
  });
});

function plain(id: string): MigratableDevice {
  return { id, version: 1, save: async function* () {}, load: async () => {} };
}
