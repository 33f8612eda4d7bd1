import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import { idleMs, readProfile } from '../profile/cpu-profile.js';
import { flameGraph } from '../profile/flame-graph.js';

const folder = mkdtempSync(join(tmpdir(), 'godwit-profile-'));
afterAll(() => rmSync(folder, { recursive: true }));

const call = (functionName: string, url = '', lineNumber = 0) => ({ functionName, url, lineNumber });

/** Four samples, a millisecond each, from 1,000 us on: outer > inner, outer, idle, outer > inner. */
function written(): string {
  const path = join(folder, 'one.cpuprofile');
  const nodes = [
    { id: 1, callFrame: call('(root)'), children: [2, 4] },
    { id: 2, callFrame: call('outer', 'file:///a/dist/channel-thread.js', 9), children: [3] },
    { id: 3, callFrame: call('<inner>', 'file:///a/dist/b.js') },
    { id: 4, callFrame: call('(idle)') },
  ];
  writeFileSync(
    path,
    JSON.stringify({ nodes, startTime: 1000, samples: [3, 2, 4, 3], timeDeltas: [1000, 1000, 1000, 1000] }),
  );
  return path;
}

test('readProfile gives the time of each call, with its callees', () => {
  const { thread, root } = readProfile(written(), 0, 10_000);
  expect(thread).toBe('channel-thread');
  expect(root.ms).toBe(4);
  const [outer, idle] = [...root.callees.values()];
  expect(outer).toMatchObject({ name: 'outer', place: 'dist/channel-thread.js:10', ms: 3 });
  expect([...(outer?.callees.values() ?? [])]).toMatchObject([{ name: '<inner>', place: 'dist/b.js:1', ms: 2 }]);
  expect(idle).toMatchObject({ name: '(idle)', place: '', ms: 1 });
});

test('readProfile counts only the samples between its two times', () => {
  const profile = readProfile(written(), 1500, 3500);
  expect(profile.root.ms).toBe(2);
  expect([...profile.root.callees.values()].map(({ name, ms }) => [name, ms])).toEqual([
    ['outer', 1.5],
    ['(idle)', 0.5],
  ]);
  expect(idleMs(profile)).toBe(0.5);
  expect(readProfile(written(), 9000, 10_000).root.ms).toBe(0);
});

test('the flame graph has a box for each call, as wide as its time, above its caller', () => {
  const svg = flameGraph('of a & b', readProfile(written(), 0, 10_000));
  expect(svg).toContain('of a &amp; b: 4 ms');
  const boxes = [...svg.matchAll(/<title>([^<]*)<\/title><rect x="([\d.]+)" y="(\d+)" width="([\d.]+)"/g)];
  expect(boxes.map(([, title, x, , width]) => [title, Number(x), Number(width)])).toEqual([
    ['all: 4.0 ms, 100.0 %', 0, 1400],
    ['outer dist/channel-thread.js:10: 3.0 ms, 75.0 %', 0, 1050],
    ['&lt;inner&gt; dist/b.js:1: 2.0 ms, 50.0 %', 0, 700],
    ['(idle): 1.0 ms, 25.0 %', 1050, 350],
  ]);
  const [all, outer, inner, idle] = boxes.map((box) => Number(box[3]));
  expect([Number(all) - Number(outer), Number(outer) - Number(inner), idle]).toEqual([17, 17, outer]);
});
