import { channel, subscribe, unsubscribe } from 'node:diagnostics_channel';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { observe, type TappedEvent } from '@godwit/observe';
import { expect, test } from '@jest/globals';
import { closingAfterEach } from './close-later.js';
import { listedChannels } from './metrics-page.js';
import { ToyMigration } from './toy-migration.js';

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

const closeLater = closingAfterEach();

test('each event of a migration that is observed is on its channel, which docs/metrics.md lists', async () => {
  const channels = listedChannels();
  expect(channels.length).toBeGreaterThan(30);
  // Node before 22 keeps a channel by a weak reference only, and forgets it when an older channel of the same name is collected. The older
  // channels here are those of other test files in this process, which are collected first.
  for (let turn = 0; turn < 3; turn++) {
    collectGarbage();
    await new Promise((resolve) => setImmediate(resolve));
  }
  const kept = channels.map((name) => channel(name));
  const tapped: [string, TappedEvent<{ type: string }>][] = [];
  const listeners = channels.map((name) => {
    const listener = (message: unknown) => tapped.push([name, message as TappedEvent<{ type: string }>]);
    subscribe(name, listener);
    return { name, listener };
  });
  const toy = closeLater(new ToyMigration());
  const seen: string[] = [];
  toy.migration.subscribe(({ type }) => seen.push(`godwit:source:${type}`));
  toy.incoming.subscribe(({ type }) => seen.push(`godwit:destination:${type}`));
  const observation = closeLater(observe(toy.migration, { incoming: toy.incoming }));
  await toy.over();
  expect(tapped.map(([name]) => name)).toEqual(seen);
  expect(observation.model().over).toBe(true);
  for (const [name, { role, event, migrationId }] of tapped) {
    expect(name).toBe(`godwit:${role}:${event.type}`);
    // A destination knows the migration's id once the source's hello has come.
    if (role === 'source' || event.type === 'completed') expect(migrationId).toBe(toy.migration.id);
  }
  for (const { name, listener } of listeners) unsubscribe(name, listener);
  expect(kept.some(({ hasSubscribers }) => hasSubscribers)).toBe(false);
});

test('docs/metrics.md lists a channel for every event there is', async () => {
  const { readFileSync } = await import('node:fs');
  const types = readFileSync(
    new URL(import.meta.resolve('@godwit/core')).pathname.replace('index.js', 'migration-event.d.ts'),
    'utf8',
  );
  const [, source = '', destination = ''] =
    /export type MigrationEvent =(.*?)\nexport .*?export type IncomingEvent =(.*)$/s.exec(types) ?? [];
  const names = (role: string, text: string) =>
    [...text.matchAll(/readonly type: '([\w-]+)'/g)].map(([, type]) => `godwit:${role}:${type}`);
  const all = [...names('source', source), ...names('destination', destination)];
  expect(all.length).toBeGreaterThan(30);
  expect(listedChannels().sort()).toEqual(all.sort());
});
