import type { HelloFrame } from '@godwit/core';
import { afterEach, describe, expect, test } from '@jest/globals';
import { GO, HELLO, PlayedSource } from './played-source.js';
import { PAGE } from './toy-migration.js';

let hostile: PlayedSource;
afterEach(() => void hostile.incoming.cancel());

describe('a hello that does not fit is refused before a page moves', () => {
  test.each<readonly [string, Partial<HelloFrame> | object, string]>([
    ['newer versions only', { minimumVersion: 3, maximumVersion: 4 }, 'GODWIT_VERSION_MISMATCH'],
    ['older versions only', { minimumVersion: 1, maximumVersion: 1 }, 'GODWIT_VERSION_MISMATCH'],
    ['no version at all', { minimumVersion: 0, maximumVersion: 0 }, 'GODWIT_VERSION_MISMATCH'],
    [
      'a version that is no number',
      { minimumVersion: Number.NaN, maximumVersion: Number.NaN },
      'GODWIT_VERSION_MISMATCH',
    ],
    ['another page size', { pageSize: 16384 }, 'GODWIT_PAGE_SIZE_MISMATCH'],
    ['another block size', { blocks: [{ ...HELLO.blocks[0], byteLength: 65 * PAGE }] }, 'GODWIT_MEMORY_MISMATCH'],
    [
      'another block address',
      { blocks: [{ ...HELLO.blocks[0], guestPhysicalAddress: PAGE }] },
      'GODWIT_MEMORY_MISMATCH',
    ],
    ['another block name', { blocks: [{ ...HELLO.blocks[0], id: 'rom' }] }, 'GODWIT_MEMORY_MISMATCH'],
    [
      'a block too many',
      { blocks: [...HELLO.blocks, { id: 'b', guestPhysicalAddress: 2 ** 32, byteLength: PAGE, identity: '' }] },
      'GODWIT_MEMORY_MISMATCH',
    ],
    ['no block', { blocks: [] }, 'GODWIT_MEMORY_MISMATCH'],
    ['a device that we lack', { devices: [...HELLO.devices, { id: 'nic', version: 1 }] }, 'GODWIT_DEVICE_MISMATCH'],
    ['a device that it lacks', { devices: HELLO.devices.slice(1) }, 'GODWIT_DEVICE_MISMATCH'],
    ['a device twice', { devices: [...HELLO.devices, HELLO.devices[0]] }, 'GODWIT_DEVICE_MISMATCH'],
    ['a newer device', { devices: [{ id: 'uart', version: 2 }, HELLO.devices[1]] }, 'GODWIT_DEVICE_MISMATCH'],
    ['an older device', { devices: [{ id: 'uart', version: 0 }, HELLO.devices[1]] }, 'GODWIT_DEVICE_MISMATCH'],
    ['a migration without a proper name', { migrationId: 'x' }, 'GODWIT_PROTOCOL'],
    ['too many page channels', { pageChannels: 65 }, 'GODWIT_LIMIT_EXCEEDED'],
    ['less than no page channels', { pageChannels: -1 }, 'GODWIT_LIMIT_EXCEEDED'],
    ['half a page channel', { pageChannels: 0.5 }, 'GODWIT_LIMIT_EXCEEDED'],
  ])('%s', async (_, change, code) => {
    hostile = new PlayedSource();
    await hostile.hello(change as Partial<HelloFrame>);
    expect(await hostile.refused()).toBe(code);
    expect(hostile.heard).toEqual([{ type: 'error', code, message: expect.any(String), retry: false }]);
  });

  test('another first frame: the peer is told, and the incoming migration waits on', async () => {
    hostile = new PlayedSource();
    await hostile.connect();
    await hostile.send(GO);
    await hostile.hear('error');
    expect(hostile.heard).toEqual([
      { type: 'error', code: 'GODWIT_PROTOCOL', message: expect.any(String), retry: false },
    ]);
    await servesAnother();
  });

  test('silence', async () => {
    hostile = new PlayedSource();
    await hostile.connect();
    await hostile.hear('error');
    expect(hostile.heard).toEqual([
      {
        type: 'error',
        code: 'GODWIT_TIMEOUT',
        message: expect.stringContaining('handshakeTimeoutMs (30000 ms)'),
        retry: true,
      },
    ]);
    expect(hostile.clock.now()).toBeLessThan(32_000);
    await servesAnother();
  });

  test('nothing but the end of the stream', async () => {
    hostile = new PlayedSource();
    await hostile.connect();
    void hostile.control.close();
    await servesAnother();
  });

  test('silent pending connections hold up nobody, and only so many may wait', async () => {
    hostile = new PlayedSource();
    for (let i = 0; i < 70; i++) await hostile.connect();
    await hostile.hear('error');
    await hostile.clock.sleep(10);
    const refused = hostile.heard.filter((frame) => frame.type === 'error');
    expect(refused).toHaveLength(6);
    expect(refused[0]).toMatchObject({ code: 'GODWIT_LIMIT_EXCEEDED' });
    // When their time is up, there is room again.
    await hostile.clock.sleep(31_000);
    await servesAnother();
    expect(hostile.clock.now()).toBeLessThan(40_000);
  });

  test('a feature that nobody knows is left out of the welcome', async () => {
    hostile = new PlayedSource();
    await hostile.hello({ features: ['teleport', 'verify'] });
    await hostile.hear('welcome');
    await hostile.send(GO);
    expect(await hostile.refused()).toBe('GODWIT_PROTOCOL');
    expect(hostile.heard[0]).toMatchObject({ type: 'welcome', version: 2, features: ['verify'] });
  });
});

/** An honest source is welcome after whatever came before it. */
async function servesAnother(): Promise<void> {
  expect(hostile.incoming.state).toBe('none');
  hostile.heard = [];
  await hostile.hello();
  await hostile.hear('welcome');
  hostile.incoming.cancel();
  await Promise.allSettled([hostile.incoming.result]);
}
