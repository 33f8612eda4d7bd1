import type { DeviceFrame, GodwitError, MigratableDevice } from '@godwit/core';
import { engineParts, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { held, watch } from './played-stream.js';
import { BLOCKS } from './toy-migration.js';

const { DeviceLoader, MOST_PIECES } = engineParts;

/** A device that remembers what it was told, in order, of all devices. */
class LoggedDevice implements MigratableDevice {
  readonly version = 1;
  /** Taken before each piece. */
  gate: Promise<void> = Promise.resolve();
  fails: string | undefined;
  leaves = false;

  constructor(
    readonly id: string,
    readonly log: string[],
  ) {}

  async *save() {}

  async load(state: AsyncIterable<Uint8Array>): Promise<void> {
    this.log.push(`${this.id} load`);
    if (this.leaves) return;
    for await (const chunk of state) {
      await this.gate;
      if (this.fails !== undefined) throw new Error(this.fails);
      this.log.push(`${this.id} ${chunk.join('')}`);
    }
    this.log.push(`${this.id} end`);
  }

  async reset(): Promise<void> {
    this.log.push(`${this.id} reset`);
  }

  loadWrites() {
    return [{ block: 0, firstPage: 5, pageCount: 2 }];
  }
}

/** The source lists a, b; the destination's VM lists b, a. */
function made(maximumBytes = 1000, anyOrder = false) {
  const log: string[] = [];
  const [a, b] = [new LoggedDevice('a', log), new LoggedDevice('b', log)];
  const failures: GodwitError[] = [];
  const reported: number[] = [];
  const loader = new DeviceLoader({
    vm: new ToyVm(BLOCKS, { running: false, devices: [b, a] }),
    described: ['a', 'b'].map((id) => ({ id, version: 1, stateBytes: 0 })),
    maximumBytes,
    anyOrder,
    onFailure: (error) => void failures.push(error),
    onLoaded: (device) => void reported.push(device),
  });
  const send = (frame: DeviceFrame, bytes: Uint8Array = Uint8Array.of(frame.sequence + 1)) => {
    if (loader.admit(frame, bytes.byteLength)) loader.accept(frame, bytes);
  };
  return { clock: new VirtualClock(), log, a, b, failures, reported, loader, send };
}

const live = (device: number, sequence: number): DeviceFrame => ({ ...piece(device, sequence, 0), last: false });
const piece = (device: number, sequence: number, attempt = 1, last = true): DeviceFrame => ({
  ...{ type: 'device', device, sequence, attempt, last },
});

describe('a piece of state is admitted', () => {
  test.each<readonly [string, DeviceFrame, string]>([
    ['of a device that there is not', piece(2, 0), 'GODWIT_OUT_OF_RANGE'],
    ['that does not follow', live(0, 1), 'GODWIT_PROTOCOL'],
    ['that is the last one, while the guest runs', piece(0, 0, 0, true), 'GODWIT_PROTOCOL'],
    ['that does not begin the stop-and-copy', piece(0, 1), 'GODWIT_PROTOCOL'],
  ])('not: one %s', (_, frame, code) => {
    const { loader } = made();
    expect(() => loader.admit(frame, 1)).toThrow(expect.objectContaining({ code }));
  });

  test('in order, for each device and each attempt; nothing after the last one, nor of pre-copy after the first one', () => {
    const { loader, send } = made();
    send(live(0, 0));
    send(live(1, 0));
    send(live(0, 1));
    expect(loader.sequences).toEqual([2, 1]);
    send(piece(0, 0, 1, false));
    send(piece(0, 1, 1, true));
    const refused = (frame: DeviceFrame) =>
      expect(() => loader.admit(frame, 0)).toThrow(expect.objectContaining({ code: 'GODWIT_PROTOCOL' }));
    refused(piece(0, 2));
    refused(live(0, 2));
    expect(() => loader.admit(piece(0, 2), 0)).toThrow(/expected no further state of attempt 1, got the last piece 2/);
    // The other device is where it was.
    send(live(1, 1));
  });

  test('up to the byte that may wait, of all devices together, and again once loading has made room', async () => {
    const { clock, loader, send, a } = made(10);
    const gate = held();
    a.gate = gate.promise;
    send(live(0, 0), new Uint8Array(4));
    send(piece(1, 0, 1, false), new Uint8Array(3));
    await clock.yield();
    expect(() => loader.admit(live(0, 1), 4)).toThrow(
      expect.objectContaining({
        code: 'GODWIT_LIMIT_EXCEEDED',
        message: expect.stringContaining('more than 10 bytes'),
      }),
    );
    loader.admit(live(0, 1), 3);
    gate.release();
    await clock.yield();
    loader.admit(live(0, 1), 7);
    expect(() => loader.admit(live(0, 1), 8)).toThrow(/the source was told this limit/);
    loader.fail(new Error('over') as GodwitError);
    await loader.idle();
  });
});

test('so many pieces wait to be loaded, however small they are, and each device may end', () => {
  const { loader, send } = made();
  for (let sequence = 0; sequence < MOST_PIECES; sequence++) send(piece(0, sequence, 1, false), new Uint8Array());
  for (const frame of [piece(0, MOST_PIECES, 1, false), piece(1, 0, 1, false), live(1, 0)]) {
    expect(() => loader.admit(frame, 0)).toThrow(
      expect.objectContaining({
        code: 'GODWIT_LIMIT_EXCEEDED',
        message: expect.stringContaining('more than 262144 pieces'),
      }),
    );
  }
  send(piece(0, MOST_PIECES), new Uint8Array());
  send(piece(1, 0), new Uint8Array());
  loader.goBack(1);
  send(piece(0, 0, 2, false), new Uint8Array());
});

describe('pieces that come on several streams', () => {
  const refused = (loader: InstanceType<typeof DeviceLoader>, frame: DeviceFrame, code: string) =>
    expect(() => loader.admit(frame, 1)).toThrow(expect.objectContaining({ code }));

  test('are put in order, of pre-copy before those of the attempt, whatever comes first', async () => {
    const { clock, log, loader, send } = made(1000, true);
    send(piece(0, 1));
    send(live(0, 2));
    send(piece(0, 0, 1, false), Uint8Array.of(7));
    send(live(0, 1));
    await clock.yield();
    expect([log, loader.sequences]).toEqual([[], [0, 0]]);
    for (const again of [piece(0, 0, 1, false), piece(0, 1), live(0, 1), live(0, 2)])
      refused(loader, again, 'GODWIT_PROTOCOL');
    refused(loader, piece(0, 2), 'GODWIT_PROTOCOL');
    send(live(0, 0));
    await clock.yield();
    expect([log, loader.sequences]).toEqual([
      ['a load', 'a 1', 'a 2', 'a 3'],
      [3, 0],
    ]);
    send(piece(1, 0));
    await loader.loadAll(1);
    expect(log.filter((line) => line.startsWith('a')).slice(4)).toEqual(['a 7', 'a 2', 'a end']);
  });

  test('are not more than 4096 that wait for one before them', () => {
    const { loader, send } = made(1e6, true);
    for (let i = 1; i <= 4096; i++) send(live(i % 2, Math.ceil(i / 2)), new Uint8Array());
    refused(loader, live(0, 5000), 'GODWIT_LIMIT_EXCEEDED');
    // The one that is missing may come.
    send(live(0, 0));
    send(live(0, 5000));
  });

  test('are void when they were sent before a reset, or belong to an attempt that was given up; a later one is wrong', async () => {
    const { clock, log, loader, send } = made(1000, true);
    send({ ...live(0, 0), resets: 0 });
    send({ ...live(0, 2), resets: 0 });
    send(piece(0, 0));
    send(piece(1, 0));
    const loading = loader.loadAll(1);
    await clock.yield();
    loader.goBack(1);
    await loading;
    await loader.idle();
    expect(loader.resets).toEqual([1, 0]);
    log.length = 0;
    for (const late of [{ ...live(0, 1), resets: 0 }, piece(0, 3), piece(1, 1)])
      expect(loader.admit(late, 4)).toBe(false);
    refused(loader, { ...live(0, 0), resets: 2 }, 'GODWIT_PROTOCOL');
    send({ ...live(0, 1), resets: 1 });
    send({ ...live(0, 0), resets: 1 });
    await clock.yield();
    expect(log).toEqual(['a load', 'a 1', 'a 2']);
    loader.fail(new Error('over') as GodwitError);
    await loader.idle();
  });

  test('that were being read when the attempt was given up neither count nor are taken', async () => {
    const { loader } = made(10, true);
    const gate = held();
    const reading = loader.receive(
      piece(0, 0),
      10,
      { readPayload: () => gate.promise, skipPayload: async () => {} },
      () => false,
    );
    expect(loader.heldBytes).toBe(10);
    expect(() => loader.admit(piece(1, 0), 1)).toThrow(expect.objectContaining({ code: 'GODWIT_LIMIT_EXCEEDED' }));
    loader.goBack(1);
    expect(loader.admit(piece(1, 0, 2), 10)).toBe(true);
    gate.release();
    await reading;
    expect(loader.heldBytes).toBe(0);
    await expect(loader.loadAll(1)).rejects.toMatchObject({ code: 'GODWIT_PROTOCOL' });
  });

  test('are asked for: the answer comes with the last of them, or when a reset has voided them', async () => {
    const { clock, loader, send } = made(1000, true);
    const live2 = watch(loader.arrived(0, [2, 0]));
    const attempt = watch(loader.arrived(1, [0, 1]));
    const complete = watch(loader.complete(1, [2, 0]));
    send(live(0, 1));
    send(piece(0, 0));
    send(piece(1, 0));
    await clock.yield();
    expect([live2.state, attempt.state, complete.state]).toEqual(['pending', 'resolved', 'pending']);
    send(live(0, 0));
    await clock.yield();
    expect([live2.state, complete.state]).toEqual(['resolved', 'resolved']);
    const never = watch(loader.arrived(1, [9, 9]));
    const reset = watch(loader.arrived(0, [9, 0]));
    const loading = loader.loadAll(1);
    await clock.yield();
    loader.goBack(1);
    await loading;
    await clock.yield();
    expect([never.state, reset.state]).toEqual(['pending', 'resolved']);
    expect(() => loader.arrived(0, [1])).toThrow(expect.objectContaining({ code: 'GODWIT_PROTOCOL' }));
    for (let i = 0; i < 16; i++) void loader.arrived(0, [0, 9]);
    expect(() => loader.arrived(0, [0, 9])).toThrow(expect.objectContaining({ code: 'GODWIT_LIMIT_EXCEEDED' }));
    await loader.idle();
  });

  test('and have overtaken one that is lost with its connection come again', async () => {
    const { clock, log, loader, send } = made(1000, true);
    send(live(0, 0));
    send(live(0, 2));
    loader.connectionBegins();
    expect(loader.sequences).toEqual([1, 0]);
    for (const sequence of [2, 1]) send(live(0, sequence));
    await clock.yield();
    expect(log).toEqual(['a load', 'a 1', 'a 2', 'a 3']);
    loader.fail(new Error('over') as GodwitError);
    await loader.idle();
  });
});

test('a device that ends its early load before any of its state has come has not read to the last byte', async () => {
  const { loader, failures, a, b } = made(1000, true);
  for (const one of [a, b]) one.leaves = true;
  await expect(loader.loadEarly({ attempt: 1, device: 1, deviceSequences: [0, 0] })).rejects.toMatchObject({
    code: 'GODWIT_DEVICE_FAILED',
    message: expect.stringContaining('must read to the last byte'),
  });
  expect(failures).toHaveLength(1);
});

describe('state is loaded', () => {
  test('as it comes while the guest runs; the rest in the order of the VM, when all of it is there', async () => {
    const { clock, log, loader, send } = made();
    send(live(0, 0));
    await clock.yield();
    expect(log).toEqual(['a load', 'a 1']);
    send(piece(0, 0));
    send(piece(1, 0));
    await clock.yield();
    expect(log).toEqual(['a load', 'a 1']);
    await loader.loadAll(1);
    expect(log).toEqual(['a load', 'a 1', 'b load', 'b 1', 'b end', 'a 1', 'a end']);
  });

  test.each<readonly [string, readonly DeviceFrame[]]>([
    ['is missing', [piece(1, 0)]],
    ['is of another attempt', [piece(0, 0, 2), piece(1, 0)]],
    ['has no end', [piece(0, 0, 1, false), piece(1, 0)]],
  ])('not while that of one device %s', async (_, frames) => {
    const { log, loader, send } = made();
    for (const frame of frames) send(frame);
    await expect(loader.loadAll(1)).rejects.toMatchObject({
      code: 'GODWIT_PROTOCOL',
      message: '"switchover" came before the end of the state of device "a"',
    });
    expect(log).toEqual([]);
  });

  test('and whoever waits for it hears of a failure: of the device, or that it left bytes', async () => {
    for (const change of [{ fails: 'bad magic' }, { leaves: true }]) {
      const { loader, send, failures, a } = made();
      Object.assign(a, change);
      send(piece(0, 0));
      send(piece(1, 0));
      const message = expect.stringMatching(/device "a" failed to load.*(bad magic|left 1 bytes of it unread)/);
      await expect(loader.loadAll(1)).rejects.toMatchObject({ code: 'GODWIT_DEVICE_FAILED', message });
      expect(failures).toEqual([]);
    }
  });

  test('while the guest runs, and a device that fails then is told at once', async () => {
    const { clock, send, failures, a } = made();
    a.fails = 'bad magic';
    send(live(0, 0));
    send(live(0, 1));
    await clock.yield();
    expect(failures).toEqual([expect.objectContaining({ code: 'GODWIT_DEVICE_FAILED' })]);
  });

  test('is reported when nothing waits any more, and at least every 256 KiB', async () => {
    const { clock, loader, send, reported, a } = made(2 ** 20);
    const gate = held();
    a.gate = gate.promise;
    for (let i = 0; i < 8; i++) send(live(0, i), new Uint8Array(64 * 1024));
    send(live(1, 0));
    await clock.yield();
    expect(reported).toEqual([1]);
    gate.release();
    await clock.yield();
    expect(reported).toEqual([1, 0, 0]);
    expect(loader.loaded).toEqual([8, 1]);
    loader.fail(new Error('over') as GodwitError);
    await loader.idle();
  });
});

test('it is prepared once every piece that was asked for is loaded, and the device says so', async () => {
  const { clock, loader, send, a } = made();
  const gate = held();
  const ready = held();
  Object.assign(a, { gate: gate.promise, prepared: () => ready.promise });
  send(live(0, 0));
  const prepared = watch(loader.prepared([1, 0]));
  const further = watch(loader.prepared([2, 0]));
  gate.release();
  await clock.yield();
  expect(prepared.state).toBe('pending');
  ready.release();
  await clock.yield();
  expect([prepared.state, further.state]).toEqual(['resolved', 'pending']);
  send(live(0, 1));
  await clock.yield();
  expect(further.state).toBe('resolved');
});

describe('an attempt that is given up', () => {
  test('before it is loaded voids what was held, and nothing else', async () => {
    const { clock, log, loader, send } = made();
    send(live(0, 0));
    send(piece(0, 0));
    await clock.yield();
    loader.goBack(1);
    expect([loader.sequences, loader.resets]).toEqual([
      [1, 0],
      [0, 0],
    ]);
    send(live(0, 1));
    send(piece(0, 0, 2));
    send(piece(1, 0, 2));
    await loader.loadAll(2);
    expect(log.filter((line) => line.startsWith('a'))).toEqual(['a load', 'a 1', 'a 2', 'a 1', 'a end']);
    expect(loader.owed.at(0).isEmpty()).toBe(true);
  });

  test('while it is loaded loads no further device, resets those that were handed the end, and owes what they wrote', async () => {
    const { clock, log, loader, send, b, failures } = made();
    const gate = held();
    b.gate = gate.promise;
    send(live(1, 0));
    send(piece(0, 0));
    send(piece(1, 0));
    const loading = loader.loadAll(1);
    await clock.yield();
    loader.goBack(1);
    gate.release();
    await loading.catch(() => {});
    await loader.idle();
    expect(log).toEqual(['b load', 'b 1', 'b reset']);
    expect([loader.sequences, loader.resets, loader.loaded]).toEqual([
      [0, 0],
      [0, 1],
      [0, 0],
    ]);
    expect([4, 5, 6, 7].map((page) => loader.owed.at(0).has(page))).toEqual([false, true, true, false]);
    expect(failures).toEqual([]);
  });

  test('while a piece is loaded that it voids does not report that piece, nor count it as loaded', async () => {
    const { clock, loader, send, b, reported } = made();
    const gate = held();
    Object.assign(b, { gate: gate.promise, backVoids: 'everything' });
    send(live(1, 0));
    send(live(1, 1));
    await clock.yield();
    loader.goBack(1);
    gate.release();
    await loader.idle();
    expect([loader.resets, loader.sequences, loader.loaded, reported]).toEqual([[0, 1], [0, 0], [0, 0], []]);
    send(live(1, 0));
    await clock.yield();
    expect([loader.loaded, reported]).toEqual([[0, 1], [1]]);
    loader.fail(new Error('over') as GodwitError);
    await loader.idle();
  });

  test('by a device that cannot go back is an error', async () => {
    const { clock, loader, send, b } = made();
    Object.assign(b, { reset: undefined });
    send(live(1, 0));
    send(piece(0, 0));
    send(piece(1, 0));
    await loader.loadAll(1);
    await clock.yield();
    expect(() => loader.goBack(1)).toThrow(expect.objectContaining({ code: 'GODWIT_DEVICE_FAILED' }));
  });
});

test('a device that the VM does not have is an error of the engine', () => {
  const parts = { vm: new ToyVm(BLOCKS), maximumBytes: 1, onFailure: () => {}, onLoaded: () => {} };
  const described = [{ id: 'gone', version: 1, stateBytes: 0 }];
  expect(() => new DeviceLoader({ ...parts, described })).toThrow(expect.objectContaining({ code: 'GODWIT_INTERNAL' }));
});
