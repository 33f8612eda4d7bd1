import { claimOf, type Frame, type FrameStream } from '@godwit/core';
import { FaultyDevice, ToyFaultService } from '@godwit/core/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { device, end, PlayedSource, pages, SWITCHOVER } from './played-source.js';
import { held } from './played-stream.js';
import { PAGE } from './toy-migration.js';

let played: PlayedSource;
afterEach(async () => {
  played.incoming.cancel();
  await played.clock.sleep(1);
  await played.control.close().catch(() => {});
});

/** Lets everything that can run do so. */
const turn = () => played.clock.sleep(1);

/** A destination that takes device state on its one page channel; the urgent one is a further stream. */
async function begin(
  features: readonly string[] = ['back', 'deviceChannels', 'loadEarly'],
  prepare: (played: PlayedSource) => void = () => {},
): Promise<FrameStream> {
  const byPostcopy = features.includes('postcopy');
  played = new PlayedSource(undefined, byPostcopy ? { faults: new ToyFaultService() } : {});
  prepare(played);
  await played.hello({ features, pageChannels: byPostcopy ? 2 : 1 });
  await played.hear('welcome');
  const [channel] = played.pages;
  if (channel === undefined) throw new Error('unreachable');
  return channel;
}

/** Writes a piece of device state to a page channel. */
const piece = (channel: FrameStream, ...[index, sequence, last, bytes, attempt]: Parameters<typeof device>) => {
  const [frame, payload] = device(index, sequence, last, bytes, attempt);
  return channel.write(frame, [payload]);
};
const awaitPieces = (id: number, attempt: number, ...deviceSequences: number[]): Frame => ({
  ...{ type: 'awaitPieces', id, attempt, deviceSequences },
});
const early = (attempt: number, index: number, ...deviceSequences: number[]): Frame => ({
  ...{ type: 'loadEarly', attempt, device: index, deviceSequences },
});
const switchover = (...deviceSequences: number[]): Frame => ({ ...SWITCHOVER, deviceSequences });
const error = (message: string) => ({ type: 'error', code: 'GODWIT_PROTOCOL', message });

describe('after "switchover", while pieces are still on their way on a page channel,', () => {
  const missing: Frame = { type: 'missing', block: 0, runs: [0, 1] };
  test.each<readonly [string, Frame]>([
    ['pages that are to be missing are', missing],
    ['a question whether the destination is prepared is', { type: 'prepare', attempt: 1, deviceSequences: [0, 0] }],
    ['an order to load early is', early(1, 0, 0, 0)],
    ['a question for pieces is', awaitPieces(1, 1, 1, 1)],
    ['a measurement of the link is', { type: 'probe' }],
    ['another switchover is', switchover(0, 0)],
  ])('%s refused, and no device loads', async (_name, frame) => {
    const channel = await begin(['back', 'deviceChannels', 'loadEarly', 'postcopy', 'probe']);
    expect(played.heardOf('welcome')).toMatchObject([{ features: expect.arrayContaining(['loadEarly', 'postcopy']) }]);
    await channel.write(end(0));
    await played.hear('roundAck');
    await played.send(switchover(0, 0), frame);
    expect(await played.refused()).toBe('GODWIT_PROTOCOL');
    expect(played.heard.at(-1)).toMatchObject(error(`the source sent "${frame.type}" after "switchover"`));
    expect(played.vm.devices.map((one) => (one as FaultyDevice).loads)).toEqual([0, 0]);
  });

  test('"back" is taken, and the next attempt begins', async () => {
    const channel = await begin();
    await channel.write(end(0));
    await played.hear('roundAck');
    await played.send(switchover(0, 0), { type: 'back', attempt: 1 });
    await played.hear('backAck');
    await piece(channel, 0, 0, true, 1, 2);
    await piece(channel, 1, 0, true, 1, 2);
    await played.send({ ...switchover(0, 0), attempt: 2 } as Frame);
    await played.hear('ready');
    expect(played.heardOf('ready')).toMatchObject([{ attempt: 2 }]);
  });
});

describe('"awaitPieces" is answered with its number', () => {
  test('once the pieces have come that were sent on another stream', async () => {
    const channel = await begin();
    await played.send(awaitPieces(5, 0, 1, 0));
    await turn();
    expect(played.heardOf('arrived')).toEqual([]);
    await piece(channel, 0, 0, false);
    await played.hear('arrived');
    expect(played.heardOf('arrived')).toEqual([{ type: 'arrived', id: 5 }]);
  });

  test('for those of a stop-and-copy too', async () => {
    const channel = await begin();
    await played.send(awaitPieces(6, 1, 1, 0));
    await turn();
    expect(played.heardOf('arrived')).toEqual([]);
    await piece(channel, 0, 0, false, 1, 1);
    await played.hear('arrived');
    expect(played.heardOf('arrived')).toEqual([{ type: 'arrived', id: 6 }]);
  });

  test('by nobody once the link was lost, which is no failure', async () => {
    await begin();
    await played.send(awaitPieces(7, 0, 1, 0));
    await turn();
    await played.again({ features: ['back', 'deviceChannels', 'loadEarly'], pageChannels: 1 });
    await played.hear('welcome');
    const [channel] = played.pages;
    await piece(channel as FrameStream, 0, 0, false);
    await turn();
    expect([played.heardOf('arrived'), played.incoming.state]).toEqual([[], 'active']);
  });

  test('not without page channels for device state', async () => {
    await begin(['back', 'loadEarly']);
    await played.send(awaitPieces(1, 0, 0, 0));
    expect(await played.refused()).toBe('GODWIT_PROTOCOL');
    const message = 'the source sent "awaitPieces", though "deviceChannels" was not agreed on';
    expect(played.heard.at(-1)).toMatchObject(error(message));
  });
});

describe('"loadEarly"', () => {
  test('loads what has come before "switchover", and reports it with its attempt', async () => {
    const channel = await begin();
    await piece(channel, 0, 0, false, 1, 1);
    await turn();
    expect((played.vm.devices[0] as FaultyDevice).loads).toBe(0);
    await played.send(early(1, 0, 0, 0));
    await played.hear('loaded');
    expect(played.heardOf('loaded')).toEqual([{ type: 'loaded', device: 0, sequence: 1, attempt: 1 }]);
    expect((played.vm.devices[0] as FaultyDevice).loads).toBe(1);
    expect(claimOf(played.vm).waitingFor).toEqual(['load() of a device']);
  });

  test('that was not agreed on is refused', async () => {
    await begin(['back', 'deviceChannels']);
    await played.send(early(1, 0, 0, 0));
    expect(await played.refused()).toBe('GODWIT_PROTOCOL');
    const message = 'the source sent "loadEarly", though "loadEarly" was not agreed on';
    expect(played.heard.at(-1)).toMatchObject(error(message));
  });

  test('of a device that fails ends the migration at once', async () => {
    const channel = await begin(undefined, ({ vm }) => {
      vm.devices = [new FaultyDevice('uart', undefined, { failLoad: 1 }), new FaultyDevice('rtc')];
    });
    await piece(channel, 0, 0, true, 1, 1);
    await played.send(early(1, 0, 0, 0));
    expect(await played.refused()).toBe('GODWIT_DEVICE_FAILED');
  });
});

describe('"switchover"', () => {
  /** A round has ended, and the pieces of the stop-and-copy are on their way. */
  const ended = async (prepare?: (played: PlayedSource) => void): Promise<FrameStream> => {
    const channel = await begin(undefined, prepare);
    await channel.write(end(0));
    await played.hear('roundAck');
    return channel;
  };

  test('waits for the pieces that were sent before it on page channels', async () => {
    const channel = await ended();
    await played.send(switchover(1, 0));
    await piece(channel, 0, 0, true, 1, 1);
    await piece(channel, 1, 0, true, 1, 1);
    await turn();
    expect([played.heardOf('ready'), played.incoming.ownership]).toEqual([[], 'receiving']);
    await piece(channel, 0, 0, false);
    await played.hear('ready');
    expect(played.incoming.ownership).toBe('ready');
  });

  test('waits for no piece of pre-copy where it counts none', async () => {
    const channel = await ended();
    await played.send(SWITCHOVER);
    await turn();
    expect(played.heardOf('ready')).toEqual([]);
    await piece(channel, 0, 0, true, 1, 1);
    await piece(channel, 1, 0, true, 1, 1);
    await played.hear('ready');
  });

  test('counts the pieces itself, and not those that have come', async () => {
    const channel = await ended();
    await piece(channel, 0, 0, false);
    await played.hear('loaded');
    await played.send(switchover(2, 0));
    await piece(channel, 0, 0, true, 1, 1);
    await piece(channel, 1, 0, true, 1, 1);
    await turn();
    expect(played.heardOf('ready')).toEqual([]);
    await piece(channel, 0, 1, false);
    await played.hear('ready');
  });

  test('comes once in an attempt', async () => {
    await ended();
    await played.send(switchover(0, 0), switchover(0, 0));
    expect(await played.refused()).toBe('GODWIT_PROTOCOL');
    expect(played.heard.at(-1)).toMatchObject(error('the source sent "switchover" after "switchover"'));
  });

  test('leaves no question to be answered', async () => {
    const built = held();
    await begin(undefined, ({ vm }) => void Object.assign(vm, { prepared: () => built.promise }));
    await played.pages[0]?.write(end(0));
    await played.hear('roundAck');
    await played.send({ type: 'prepare', attempt: 1, deviceSequences: [0, 0] }, switchover(0, 0));
    await turn();
    built.release();
    await turn();
    expect(played.heardOf('prepared')).toEqual([]);
  });

  test('that waits can be given up, and the next attempt has one of its own', async () => {
    const channel = await ended();
    await played.send(switchover(1, 0), { type: 'back', attempt: 1 });
    await played.hear('backAck');
    // What it waited for comes late, and loads nothing.
    await piece(channel, 0, 0, false);
    await piece(channel, 0, 0, true, 1, 1);
    await piece(channel, 1, 0, true, 1, 1);
    await turn();
    expect([played.heardOf('ready'), played.incoming.ownership]).toEqual([[], 'receiving']);
    await channel.write(end(0, 2));
    await turn();
    await played.send({ type: 'switchover', round: 2, attempt: 2, runState: 'running', deviceSequences: [1, 0] });
    await piece(channel, 0, 0, true, 1, 2);
    await piece(channel, 1, 0, true, 1, 2);
    await played.hear('ready');
    expect(played.heardOf('ready')).toMatchObject([{ attempt: 2 }]);
  });

  test('that is given up in the moment in which its last piece comes leads nowhere', async () => {
    const resettable = (id: string) =>
      Object.assign(new FaultyDevice(id), { reset: async () => {}, loadWrites: () => [] });
    for (let turns = 0; turns < 16; turns++) {
      const channel = await ended(({ vm }) => {
        vm.devices = [resettable('uart'), resettable('rtc')];
      });
      await piece(channel, 0, 0, true, 1, 1);
      await piece(channel, 1, 0, true, 1, 1);
      await played.send(switchover(1, 0));
      await turn();
      const coming = piece(channel, 0, 0, false);
      for (let i = 0; i < turns; i++) await Promise.resolve();
      await Promise.all([coming, played.send({ type: 'back', attempt: 1 })]);
      await played.hear('backAck');
      await played.clock.sleep(5000);
      expect([turns, played.incoming.state, played.incoming.ownership]).toEqual([turns, 'active', 'receiving']);
      played.incoming.cancel();
      await played.clock.sleep(1);
      await played.control.close();
    }
  });

  test('whose pieces are lost with their link waits for none: the source gives the attempt up', async () => {
    await ended();
    const hello = { features: ['back', 'deviceChannels', 'loadEarly'], pageChannels: 1 };
    await played.send(switchover(1, 0));
    await turn();
    await played.again({ ...hello, stage: 'paused' });
    await played.hear('resumed');
    expect(played.heardOf('resumed')).toMatchObject([{ state: 'receiving', round: 2 }]);
    // Pages are taken again before the attempt is given up: those that the destination has not acknowledged.
    const [channel] = played.pages;
    const [frame, payload] = pages([4, 1], PAGE, { round: 2 });
    await channel?.write(frame, [payload]);
    await channel?.write(end(1, 2));
    await played.hear('roundAck');
    await played.again({ ...hello, attempt: 2, connection: 3 });
    await played.hear('resumed');
    await played.send({ ...SWITCHOVER, round: 2, attempt: 2, deviceSequences: [0, 0] });
    await played.clock.sleep(5000);
    expect(played.incoming.state).toBe('active');
  });

  test('with everything there leads on, once', async () => {
    const channel = await ended();
    await piece(channel, 0, 0, true, 1, 1);
    await piece(channel, 1, 0, true, 1, 1);
    await turn();
    await played.send(SWITCHOVER);
    await played.hear('ready');
    expect(played.eventsOf('ownership')).toHaveLength(1);
  });
});
