import { FaultyDevice } from '@godwit/core/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { DEVICES, end, failingOnce, GO, PlayedSource, pages, READY, SWITCHOVER } from './played-source.js';
import { PAGE } from './toy-migration.js';

let played: PlayedSource;
afterEach(async () => {
  played.incoming.cancel();
  await played.clock.sleep(1);
  await played.control.close().catch(() => {});
});

/** A destination whose guest was handed over, and takes 5 ms to start. */
async function running(
  options: ConstructorParameters<typeof PlayedSource>[1] = {},
  through?: ConstructorParameters<typeof PlayedSource>[2],
): Promise<void> {
  played = new PlayedSource(100_000, options, through);
  played.vm.devices = [new FaultyDevice('uart'), new FaultyDevice('rtc')];
  played.vm.onResume = () => played.clock.sleep(5);
  await played.hello();
  await played.hear('welcome');
  await played.send(...READY);
  await played.hear('ready');
  await played.send(GO);
  while (played.incoming.ownership !== 'running') await played.clock.sleep(1);
  await played.clock.sleep(10);
}

describe('the source is told that the guest runs here', () => {
  test('again over each connection that it makes, until it answers', async () => {
    await running();
    const [welcome] = played.heardOf('welcome');
    const [said] = played.heardOf('running');
    await played.again({ stage: 'handedOver' });
    await played.hear('resumed');
    expect(played.lost).toMatchObject([{ code: 'GODWIT_LINK_LOST' }]);
    expect(played.heard).toEqual([
      {
        type: 'resumed',
        state: 'running',
        round: 0,
        deviceSequences: [0, 0],
        deviceResets: [0, 0],
        incarnation: welcome?.incarnation,
        resumeMs: 5,
        sinceReadyMs: said?.sinceReadyMs,
      },
    ]);
    await played.again({ stage: 'handedOver', connection: 3 });
    await played.hear('resumed');
    await played.send({ type: 'released' });
    await played.incoming.result;
    expect([played.incoming.ownership, played.lost.length, played.link.openStreams]).toEqual(['settled', 2, 0]);
  });

  test('over a new connection too while the old one has not been noticed to be lost', async () => {
    await running();
    played.heard = [];
    await played.hello({ connection: 2, stage: 'handedOver' });
    await played.hear('resumed');
    expect([played.link.openStreams, played.lost.length]).toEqual([2, 1]);
    await played.send({ type: 'released' });
    await played.incoming.result;
    expect(played.incoming.ownership).toBe('settled');
  });

  test('again where only the message could not be written', async () => {
    await running({}, failingOnce('running', new Error('EPIPE')));
    expect(played.lost).toMatchObject([{ code: 'GODWIT_LINK_LOST', message: 'telling the source failed: EPIPE' }]);
    await played.again({ stage: 'handedOver' });
    await played.hear('resumed');
  });

  test('and one that falls silent after it has come back is taken for lost', async () => {
    await running({ settleTimeoutMs: 600_000 });
    await played.again({ stage: 'handedOver' });
    await played.hear('resumed');
    expect(played.lost).toHaveLength(1);
    const since = played.clock.now();
    while (played.lost.length < 2 && played.clock.now() - since < 300_000) await played.clock.sleep(1000);
    expect(played.lost).toMatchObject([{ code: 'GODWIT_LINK_LOST' }, { code: expect.stringMatching(/^GODWIT_/) }]);
    expect([played.incoming.ownership, played.link.openStreams]).toEqual(['running', 0]);
  });

  test('and if it never answers, the guest runs, and the embedder hears that a copy may exist', async () => {
    await running({ settleTimeoutMs: 4000 });
    const since = played.clock.now();
    await played.incoming.result;
    expect([played.incoming.ownership, played.vm.running]).toEqual(['untold', true]);
    expect(played.clock.now() - since).toBeLessThan(6000);
    expect(played.eventsOf('warning')).toEqual([
      {
        type: 'warning',
        code: 'GODWIT_LINK_LOST',
        message:
          'the guest runs here, but the source has not answered "released" within settleTimeoutMs (4000 ms): its copy may still exist, ' +
          'paused (no answer was received)',
      },
    ]);
  });

  test('and has a second to answer even where nobody is to wait', async () => {
    await running({ settleTimeoutMs: 0 });
    await played.clock.sleep(800);
    await played.send({ type: 'released' });
    await played.incoming.result;
    expect(played.incoming.ownership).toBe('settled');
  });
});

test('a page that comes on a page channel after "go" is not taken: the link is lost', async () => {
  played = new PlayedSource();
  await played.hello({ pageChannels: 1 });
  await played.hear('welcome');
  const [channel] = played.pages;
  await channel?.write(end(0));
  await played.hear('roundAck');
  await played.send(...DEVICES, SWITCHOVER);
  await played.hear('ready');
  await played.send(GO);
  await played.hear('running');
  const [frame, payload] = pages([3, 1], PAGE, { round: 2 });
  await channel?.write(frame, [payload]);
  while (played.lost.length === 0) await played.clock.sleep(1);
  expect(played.lost).toMatchObject([
    { code: 'GODWIT_PROTOCOL', message: 'a "pages" frame came on channel 0 after "switchover"' },
  ]);
  expect([played.vm.running, played.vm.memory.blocks[0]?.view(3 * PAGE, 1)[0]]).toEqual([true, 0]);
});
