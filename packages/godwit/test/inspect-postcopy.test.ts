import { createReadStream, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Frame, migrate, receive } from '@godwit/core';
import { type FrameTap, memoryLink, ToyFaultService, ToyVm, VirtualClock } from '@godwit/core/testing';
import { recordTo } from '@godwit/transport';
import { describe, expect, jest, test } from '@jest/globals';
import { godwit } from './godwit-command.js';
import { findingsIn, once, only, RESUMED, RecordingFolder, summaryOf } from './recording-folder.js';
import { answer, FEATURES, POSTCOPY, RECONNECTED, request, UP_TO_RUNNING } from './scripted-postcopy.js';
import { bareStream, hello, PAGE, type Step, WELCOME } from './scripted-recording.js';

jest.setTimeout(60_000);

const folder = new RecordingFolder();
const findingsOf = (steps: readonly Step[], frames = false) => folder.findingsOf(steps, frames);

describe('a migration by post-copy', () => {
  test('has its round behind running, and answers that belong to no round', async () => {
    const findings = await findingsOf(POSTCOPY);
    expect(only(findings, 'violation')).toEqual([]);
    expect(only(findings, 'round')).toMatchObject([
      { round: 1, pages: { raw: 20, zero: 0 }, acknowledged: 20 },
      { round: 2, pages: { raw: 3, zero: 3 }, acknowledged: 6 },
    ]);
    expect(only(findings, 'urgent')).toMatchObject([{ link: 0, requests: 3, requestedPages: 3, pages: 5 }]);
    expect(summaryOf(findings)).toMatchObject({
      whole: true,
      pages: { raw: 23, zero: 3 },
      urgentPages: 5,
      outcome: { type: 'running', runState: 'running' },
    });
    expect(summaryOf(findings).outcome).not.toHaveProperty('incomplete');
    const { status, stdout: text } = await godwit(['inspect', await folder.record(POSTCOPY)]);
    expect(status).toBe(0);
    expect(text).toContain('3 requests for 3 pages, 5 pages in answers');
    expect(text).toContain('1 page channel and the urgent one');
    expect(text).toContain('23 raw, 3 zero, and 5 over urgent channels;');
    expect(text).not.toMatch(/ requestPages +\{/);
  });

  test('goes on over a further connection', async () => {
    const findings = await findingsOf(RECONNECTED);
    expect(only(findings, 'violation')).toEqual([]);
    expect(only(findings, 'urgent')).toMatchObject([
      { link: 0, requests: 2, pages: 1 },
      { link: 1, requests: 1, pages: 1 },
    ]);
    expect(only(findings, 'round').map(({ link, round, acknowledged }) => [link, round, acknowledged])).toEqual([
      [0, 1, 20],
      [1, 2, 5],
      [0, 2, undefined],
    ]);
    expect(summaryOf(findings).outcome).toEqual({ type: 'running', runState: 'running' });
    // The destination lacks nothing any more when it is asked.
    const settled: Step = ['D', 0, { ...RESUMED, state: 'running', round: 0 }];
    const asked: Step[] = [...RECONNECTED.slice(0, 17), settled, ['S', 0, { type: 'released' }]];
    expect(summaryOf(await findingsOf(asked))).toMatchObject({ whole: true, outcome: { type: 'running' } });
  });

  test('that ends with pages missing is told so', async () => {
    for (const steps of [UP_TO_RUNNING, RECONNECTED.slice(0, 20)]) {
      const findings = await findingsOf(steps);
      expect(summaryOf(findings).outcome).toEqual({ type: 'running', runState: 'running', incomplete: true });
      const { stdout } = await godwit(['inspect', await folder.record(steps)]);
      expect(stdout).toContain('does not say that all of its pages have come there');
    }
  });

  test('is read from the capture of one direction of one stream', async () => {
    const said = await bareStream([
      [{ type: 'attach', migrationId: hello().migrationId, index: 1, connection: 1 }],
      [{ type: 'pages', round: 0, block: 0, runs: [2, 1] }, PAGE],
      [{ type: 'pages', round: 0, block: 0, runs: [9, 2] }, 2 * PAGE],
    ]);
    expect(summaryOf(await findingsIn(once(said)))).toMatchObject({ whole: true, urgentPages: 3, pages: { raw: 0 } });
    const asked = await bareStream([[{ type: 'requestPages', block: 0, page: 2, pages: 1 }]]);
    expect(summaryOf(await findingsIn(once(asked)))).toMatchObject({ whole: true, violations: 0 });
  });
});

describe('a violation of post-copy', () => {
  const inserted = (index: number, ...steps: Step[]): Step[] =>
    POSTCOPY.flatMap((step, i) => (i === index ? [...steps, step] : [step]));
  const without = (feature: string): Step[] =>
    POSTCOPY.map((step, i) =>
      i === 1 ? ['D', 0, { ...WELCOME, features: FEATURES.filter((one) => one !== feature) } as Frame] : step,
    );

  test.each<readonly [string, Step[], string]>([
    [
      'missing pages outside of their block',
      inserted(5, ['S', 0, { type: 'missing', block: 0, runs: [60, 5] }]),
      'a "missing" frame reaches to page 65',
    ],
    [
      'missing pages of a block that there is not',
      inserted(5, ['S', 0, { type: 'missing', block: 1, runs: [0, 1] }]),
      'a "missing" frame is of block 1',
    ],
    [
      'missing pages after switchover',
      inserted(9, ['S', 0, { type: 'missing', block: 0, runs: [9, 1] }]),
      '"missing" from the source',
    ],
    ['a request before switchover', inserted(5, request(1)), 'though no page is missing yet'],
    ['a request outside of its block', inserted(16, request(64)), 'a "requestPages" frame reaches to page 65'],
    ['a request for no page', inserted(16, request(1, 0)), 'has an empty run at page 1'],
    ['a request for more than 64 pages', inserted(16, request(0, 65)), 'asks for 65 pages; there may be 64'],
    ['an answer in a round', inserted(16, answer([1, 1], 1, 2)), 'of round 2 on the urgent channel'],
    [
      'an answer with too little',
      inserted(16, answer([1, 2], 1)),
      '2 pages of 4096 bytes, but a payload of 4096 bytes',
    ],
    [
      'an answer that is no page',
      inserted(16, ['S', 2, { type: 'zeroPages', round: 0, block: 0, runs: [1, 1] }]),
      '"zeroPages" from the source on the urgent channel',
    ],
    [
      'pages of round 0 on a page channel',
      inserted(16, ['S', 1, { type: 'pages', round: 0, block: 0, runs: [1, 1] }, PAGE]),
      'of round 0 follows round 2',
    ],
    ['an answer that was not asked for', POSTCOPY.filter((_, i) => i !== 9), 'though nothing was asked for'],
    [
      'deltas of pages that are missing',
      inserted(15, ['S', 1, { type: 'deltaPages', round: 2, block: 0, runs: [1, 1] }, 1]),
      '"encoding:delta" was not agreed on',
    ],
    ['a frame of it that was not agreed on', without('postcopy'), '"postcopy" was not agreed on'],
    ['a bitmap that was not agreed on', without('bitmap'), 'a "missing" frame, though "bitmap" was not agreed on'],
    ['whole before running', inserted(12, ['D', 0, { type: 'whole' }]), '"whole" from the destination'],
  ])('is found: %s', async (_name, steps, says) => {
    const violations = only(await findingsOf(steps), 'violation').map(({ message }) => message);
    expect(violations.join('\n')).toContain(says);
  });
});

/** Moves a guest by post-copy, which waits for its pages there, with the nth frame and the one 25 frames later lost with their links. */
async function recorded(path: string, side: 'source' | 'destination', n: number, pageChannels: number): Promise<void> {
  const clock = new VirtualClock();
  const blocks = [{ id: 'ram', guestPhysicalAddress: 0, byteLength: 64 * PAGE }];
  const [source, destination] = [new ToyVm(blocks), new ToyVm(blocks, { running: false })];
  for (let page = 0; page < 64; page += 2) source.write(0, page * PAGE, new Uint8Array(PAGE).fill(page + 1));
  const faults = new ToyFaultService();
  let touched: Promise<unknown> = Promise.resolve();
  destination.onResume = () => {
    const touch = async (page: number): Promise<void> => {
      for (let i = 0; i < 6; i++) await faults.served.at(-1)?.touch(0, page + i);
    };
    touched = Promise.all([touch(10), touch(30)]);
  };
  let frames = 0;
  const tap: FrameTap = (frame, payload) => {
    if (frame.type === 'roundEnd' && source.running)
      for (let page = 8; page < 40; page++) source.write(0, page * PAGE, Uint8Array.of(page));
    if (++frames === n || frames === n + 25) {
      link.cut();
      return undefined;
    }
    return { frame, payload };
  };
  const link = memoryLink({ clock, fromSource: tap, fromDestination: tap });
  const recording = await recordTo(path);
  const listener = side === 'destination' ? recording.listener(link.listener) : link.listener;
  const connector = side === 'source' ? recording.connector(link.connector) : link.connector;
  const incoming = receive(listener, { prepare: () => destination, clock, faults });
  const migration = migrate(source, connector, {
    ...{ clock, postcopy: true, pageChannels, random: () => 0.5 },
    policy: ({ canPostcopy }) => (canPostcopy ? { action: 'postcopy', reason: 'at once' } : undefined),
  });
  await Promise.all([migration.result, incoming.result]);
  await touched;
  await recording.close();
}

test.each([
  ['source', 0],
  ['source', 2],
  ['destination', 0],
  ['destination', 2],
] as const)(
  'what the engine does by post-copy obeys the protocol, however links are lost: recorded at the %s, %i channels',
  async (side, channels) => {
    const directory = mkdtempSync(join(tmpdir(), 'godwit-postcopy-'));
    try {
      let answers = 0;
      for (let n = 5; n < 75; n += 3) {
        const path = join(directory, `${n}.godwit`);
        await recorded(path, side, n, channels);
        const findings = await findingsIn(createReadStream(path));
        expect({ n, wrong: only(findings, 'violation') }).toEqual({ n, wrong: [] });
        const summary = summaryOf(findings);
        expect({ n, outcome: summary.outcome }).toEqual({ n, outcome: { type: 'running', runState: 'running' } });
        answers += summary.urgentPages;
      }
      expect(answers).toBeGreaterThan(50);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  },
);
