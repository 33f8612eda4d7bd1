import { type LinkListener, migrate, receive, type StreamEncoding } from '@godwit/core';
import { connectTo, listenOn, tcp } from '@godwit/transport';
import { onWorkers } from '@godwit/workers';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { repeats } from './repeats.js';
import { MIB, StillGuest } from './still-guest.js';
import { ThreadWatch } from './threads.js';

jest.setTimeout(120_000);

const SIZES = [16 * MIB];
const PAGES = (16 * MIB) / 4096;

let threads: ThreadWatch;
let listener: LinkListener & { readonly listener: { readonly port: number } };

beforeEach(async () => {
  threads = new ThreadWatch();
  listener = await listenOn(tcp({ port: 0 }));
});

afterEach(async () => {
  await listener.close();
  threads.stop();
});

/** A guest of pages of one byte each, and its destination. */
function guests(): { readonly source: StillGuest; readonly target: StillGuest } {
  const source = new StillGuest(true, SIZES);
  const block = source.memory.blocks[0] as (typeof source.memory.blocks)[number];
  for (let page = 0; page < block.byteLength / 4096; page++) block.view(page * 4096, 4096).fill(1 + (page % 250));
  return { source, target: new StillGuest(false, SIZES) };
}

const connector = () => connectTo(tcp({ port: listener.listener.port }));

test("an encoding of one's own is made on the threads, from its recipe", async () => {
  const { source, target } = guests();
  const incoming = receive(onWorkers(listener), { prepare: () => target, encodings: [repeats()] });
  const migration = migrate(source, onWorkers(connector()), {
    encodings: [repeats()],
    adaptiveEncodings: false,
    pageChannels: 2,
    verify: true,
  });
  const [summary] = await Promise.all([migration.result, incoming.result]);
  expect(summary.pages.compressed).toBe(PAGES);
  expect(summary.wireBytes).toBeLessThan(MIB);
  expect(source.equals(target)).toBe(true);
  expect([threads.started.length, threads.alive.size]).toEqual([4, 0]);
  source.memory.close();
  target.memory.close();
});

/** Without its recipe: it can be made on the main thread alone. */
function homemade(): StreamEncoding {
  const { recipe: _, ...rest } = repeats();
  return rest;
}

describe.each(['source', 'destination'])('without a recipe, threads at the %s', (side) => {
  test('refuse it by name before a page moves', async () => {
    const { source, target } = guests();
    const links = side === 'destination' ? onWorkers(listener) : listener;
    const incoming = receive(links, { prepare: () => target, encodings: [homemade()] });
    const migration = migrate(source, side === 'source' ? onWorkers(connector()) : connector(), {
      encodings: [homemade()],
      pageChannels: 2,
    });
    const [sent, received] = await Promise.allSettled([migration.result, incoming.result]);
    for (const { status, reason } of [sent, received] as PromiseRejectedResult[]) {
      expect({ status, reason }).toMatchObject({ status: 'rejected', reason: { code: 'GODWIT_UNSUPPORTED' } });
      expect(String(reason)).toContain('the encoding "repeats" has no recipe');
    }
    expect([source.running, target.running, threads.alive.size]).toEqual([true, false, 0]);
    source.memory.close();
  });
});

test('a recipe whose module is not there ends the migration, and says so', async () => {
  const { source, target } = guests();
  const recipe = { module: new URL('./not-there.js', import.meta.url).href, make: 'repeats', options: undefined };
  const incoming = receive(listener, { prepare: () => target, encodings: [repeats()] });
  const migration = migrate(source, onWorkers(connector()), {
    encodings: [{ ...repeats(), recipe }],
    pageChannels: 1,
    reconnectTimeoutMs: 500,
  });
  await expect(migration.result).rejects.toThrow(/not-there\.js/);
  incoming.cancel();
  await expect(incoming.result).rejects.toBeDefined();
  expect([source.running, threads.alive.size]).toEqual([true, 0]);
  source.memory.close();
});
