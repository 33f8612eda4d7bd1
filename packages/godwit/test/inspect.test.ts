import { createReadStream, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Frame } from '@godwit/core';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { type Finding, type InspectionSummary, inspectRecording, type ReadableBytes } from 'godwit';
import { bareStream, FAULTLESS, GOES_BACK, hello, PAGE, record, type Step, WELCOME } from './scripted-recording.js';

jest.setTimeout(60_000);

let folder: string;
let count = 0;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-inspect-'));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function findingsIn(bytes: ReadableBytes, frames = false): Promise<Finding[]> {
  const findings: Finding[] = [];
  for await (const finding of inspectRecording(bytes, { frames })) findings.push(finding);
  return findings;
}

async function findingsOf(steps: readonly Step[], frames = false): Promise<Finding[]> {
  const path = join(folder, `${count++}.godwit`);
  await record(path, steps);
  return findingsIn(createReadStream(path), frames);
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

function only<E extends Finding['event']>(findings: readonly Finding[], event: E): Extract<Finding, { event: E }>[] {
  return findings.filter((finding): finding is Extract<Finding, { event: E }> => finding.event === event);
}

function summaryOf(findings: readonly Finding[]): InspectionSummary {
  const last = findings.at(-1);
  if (last?.event !== 'summary') throw new Error(`no summary, but ${JSON.stringify(last)}`);
  return last;
}

describe('a recording without a fault', () => {
  test('is told in rounds, devices and messages', async () => {
    const findings = await findingsOf(FAULTLESS);
    expect(findings.map(({ event }) => event)).toEqual([
      ...['recording', 'link', 'message', 'message', 'round', 'round', 'device'],
      ...['message', 'message', 'message', 'attempt', 'message', 'summary'],
    ]);
    expect(only(findings, 'round')).toMatchObject([
      { link: 0, round: 1, pages: { raw: 3, zero: 50 }, frames: 2, acknowledged: 53 },
      { link: 0, round: 2, pages: { raw: 1, zero: 0 }, frames: 1, acknowledged: 1 },
    ]);
    expect(only(findings, 'device')).toEqual([
      { event: 'device', link: 0, id: 'serial', attempt: 1, pieces: 2, bytes: 123 },
    ]);
    expect(only(findings, 'attempt')).toEqual([
      { event: 'attempt', link: 0, attempt: 1, end: 'go', durationMs: expect.any(Number), deviceBytes: 23 },
    ]);
    expect(summaryOf(findings)).toMatchObject({
      whole: true,
      violations: 0,
      pages: { raw: 4, zero: 50 },
      attempts: 1,
      wentBack: 0,
      outcome: { type: 'running', runState: 'running' },
      frames: { pages: { count: 2 }, roundEnd: { count: 4 }, device: { count: 2 } },
    });
  });

  test('names every frame on demand, each with its place', async () => {
    const path = join(folder, 'every.godwit');
    await record(path, FAULTLESS);
    const frames = only(await findingsIn(createReadStream(path), true), 'frame');
    expect(frames.map(({ frame }) => frame.type)).toEqual(FAULTLESS.map(([, , frame]) => frame.type));
    const summary = summaryOf(await findingsIn(createReadStream(path), true));
    expect(frames.reduce((sum, { byteLength }) => sum + byteLength, 0)).toBe(summary.bytes);
    for (const { offset, byteLength, payloadBytes } of frames) {
      const bytes = Buffer.concat(
        await createReadStream(path, { start: offset, end: offset + byteLength - 1 }).toArray(),
      );
      const headerBytes = bytes.readUInt32BE(1);
      expect([bytes[0], headerBytes + 5 + (payloadBytes > 0 ? payloadBytes + 5 : 0)]).toEqual([0xce, byteLength]);
    }
  });

  test('has other outcomes too', async () => {
    const outcome = async (steps: readonly Step[]) => summaryOf(await findingsOf(steps)).outcome;
    expect(await outcome(FAULTLESS.slice(0, -1))).toEqual({ type: 'handed over' });
    expect(await outcome(FAULTLESS.slice(0, -2))).toEqual({ type: 'unfinished' });
    const error: Step = [
      'D',
      0,
      { type: 'error', code: 'GODWIT_DEVICE_FAILED', message: 'no such register', retry: false },
    ];
    expect(await outcome([...FAULTLESS.slice(0, 7), error])).toEqual({
      type: 'failed',
      by: 'destination',
      code: 'GODWIT_DEVICE_FAILED',
      message: 'no such register',
    });
  });

  test('of a migration over two connections goes on at the round and the piece that the destination names', async () => {
    const resumed: Frame = {
      type: 'resumed',
      state: 'receiving',
      round: 2,
      deviceSequences: [1],
      deviceResets: [0],
      incarnation: '1'.repeat(32),
      resumeMs: 0,
      sinceReadyMs: 0,
    };
    const findings = await findingsOf([
      ...FAULTLESS.slice(0, 8),
      ['S', 0, { type: 'device', device: 0, sequence: 0, last: false, attempt: 0 }, 100],
      ['S', 0, hello({ connection: 2 })],
      ['D', 0, { type: 'received', block: 0, runs: [63, 1] }],
      ['D', 0, resumed],
      ['S', 1, { type: 'roundEnd', round: 2, pages: 0 }],
      ['S', 2, { type: 'roundEnd', round: 2, pages: 0 }],
      ['D', 0, { type: 'roundAck', round: 2, pages: 0 }],
      ['S', 0, { type: 'device', device: 0, sequence: 1, last: false, attempt: 0 }, 10],
      ...FAULTLESS.slice(12),
    ]);
    expect(only(findings, 'violation')).toEqual([]);
    expect(only(findings, 'link').map(({ link }) => link)).toEqual([0, 1]);
    expect(only(findings, 'round').map(({ link, round, acknowledged }) => [link, round, acknowledged])).toEqual([
      [0, 1, 53],
      [1, 2, 0],
      [0, 2, undefined],
    ]);
    expect(summaryOf(findings)).toMatchObject({ whole: true, outcome: { type: 'running' } });
  });
});

describe('a migration that goes back', () => {
  const RESUMED: Extract<Frame, { type: 'resumed' }> = {
    type: 'resumed',
    state: 'receiving',
    round: 3,
    deviceSequences: [1],
    deviceResets: [0],
    incarnation: '1'.repeat(32),
    resumeMs: 0,
    sinceReadyMs: 0,
  };

  test('obeys the protocol, and its attempts are told', async () => {
    const findings = await findingsOf(GOES_BACK);
    expect(only(findings, 'violation')).toEqual([]);
    expect(only(findings, 'attempt')).toEqual([
      { event: 'attempt', link: 0, attempt: 1, end: 'back', durationMs: expect.any(Number), deviceBytes: 23 },
      { event: 'attempt', link: 0, attempt: 2, end: 'go', durationMs: expect.any(Number), deviceBytes: 24 },
    ]);
    expect(only(findings, 'device')).toEqual([
      { event: 'device', link: 0, id: 'serial', attempt: 1, pieces: 2, bytes: 123 },
      { event: 'device', link: 0, id: 'serial', attempt: 2, pieces: 3, bytes: 124 },
    ]);
    expect(only(findings, 'round').map(({ round, acknowledged }) => [round, acknowledged])).toEqual([
      [1, 53],
      [2, 1],
      [3, 1],
    ]);
    expect(summaryOf(findings)).toMatchObject({
      whole: true,
      attempts: 2,
      wentBack: 1,
      frames: { back: { count: 1 }, prepare: { count: 2 }, owed: { count: 1 }, loaded: { count: 1 } },
      outcome: { type: 'running', runState: 'paused' },
    });
    const messages = only(findings, 'message').map(({ frame }) => frame.type);
    expect(messages).toEqual(expect.arrayContaining(['back', 'backAck']));
    // These come by the hundred.
    for (const type of ['prepare', 'prepared', 'owed', 'loaded']) expect(messages).not.toContain(type);
  });

  test('before anything of the attempt was sent is counted too', async () => {
    const none = GOES_BACK.filter(
      ([, , frame], i) => i > 18 || !['device', 'switchover', 'ready'].includes(frame.type),
    );
    const findings = await findingsOf([
      ...GOES_BACK.slice(0, 12),
      ...none.slice(none.findIndex(([, , { type }]) => type === 'loaded')),
    ]);
    expect(only(findings, 'violation')).toEqual([]);
    expect(only(findings, 'attempt')).toMatchObject([
      { attempt: 1, end: 'back', deviceBytes: 0 },
      { attempt: 2, end: 'go' },
    ]);
    expect(summaryOf(findings)).toMatchObject({ whole: true, attempts: 2, wentBack: 1 });
  });

  test('because its connection is lost goes on over another one', async () => {
    const lost = GOES_BACK.findIndex(([, , { type }]) => type === 'back');
    const findings = await findingsOf([
      ...GOES_BACK.slice(0, lost),
      ['S', 0, hello({ features: ['back'], connection: 2, attempt: 2 })],
      ['D', 0, RESUMED],
      ...GOES_BACK.slice(lost + 3),
    ]);
    expect(only(findings, 'violation')).toEqual([]);
    expect(only(findings, 'attempt')).toMatchObject([
      { link: 0, attempt: 1, end: 'connection' },
      { link: 1, attempt: 2, end: 'go' },
    ]);
    expect(summaryOf(findings)).toMatchObject({ whole: true, attempts: 2, wentBack: 1 });
  });

  test('not, though its connection is lost, is in the same attempt', async () => {
    const lost = FAULTLESS.findIndex(([, , { type }]) => type === 'ready');
    const findings = await findingsOf([
      ...FAULTLESS.slice(0, lost),
      ['S', 0, hello({ connection: 2, stage: 'paused' })],
      ['D', 0, { ...RESUMED, state: 'loading' }],
      ...FAULTLESS.slice(lost),
    ]);
    expect(only(findings, 'violation')).toEqual([]);
    expect(only(findings, 'attempt')).toMatchObject([{ link: 1, attempt: 1, end: 'go', deviceBytes: 23 }]);
    expect(summaryOf(findings)).toMatchObject({ whole: true, attempts: 1, wentBack: 0 });
  });

  test('resets a device, which begins anew', async () => {
    const findings = await findingsOf(
      GOES_BACK.flatMap((step): Step[] => {
        const [, , frame] = step;
        if (frame.type === 'backAck') return [['D', 0, { ...frame, deviceResets: [1] }]];
        if (frame.type === 'prepare' && frame.attempt === 2) {
          return [['S', 0, { type: 'device', device: 0, sequence: 0, last: false, attempt: 0 }, 100], step];
        }
        return [step];
      }),
    );
    expect(only(findings, 'violation')).toEqual([]);
    expect(only(findings, 'device')).toMatchObject([{ bytes: 123 }, { attempt: 2, pieces: 3, bytes: 124 }]);
  });

  test('has nothing to do with another one in the same file', async () => {
    const findings = await findingsOf([
      ...GOES_BACK,
      ['S', 0, hello({ migrationId: 'f'.repeat(32) })],
      ['D', 0, { ...WELCOME, incarnation: '2'.repeat(32) } as Frame],
      ...FAULTLESS.slice(2),
    ]);
    expect(only(findings, 'violation')).toEqual([]);
    expect(summaryOf(findings)).toMatchObject({ attempts: 3, wentBack: 1 });
  });

  test('and ends before it hands over says so', async () => {
    const attempts = async (steps: readonly Step[]) => {
      const findings = await findingsOf(steps);
      expect(only(findings, 'violation')).toEqual([]);
      const { attempts: begun, wentBack } = summaryOf(findings);
      return [begun, wentBack, ...only(findings, 'attempt').map(({ end }) => end)];
    };
    const go = GOES_BACK.findIndex(([, , { type }]) => type === 'go');
    expect(await attempts(GOES_BACK.slice(0, go))).toEqual([2, 1, 'back', 'none']);
    expect(await attempts(GOES_BACK.slice(0, 15))).toEqual([0, 0]);
  });

  test('of an error that may pass goes on; the last word counts', async () => {
    const error = (retry: boolean): Step => [
      'D',
      0,
      { type: 'error', code: 'GODWIT_TIMEOUT', message: retry ? 'busy' : 'over', retry },
    ];
    const outcome = async (...steps: Step[]) => summaryOf(await findingsOf(steps)).outcome;
    const [first] = FAULTLESS as [Step, ...Step[]];
    expect(await outcome(first, error(true))).toMatchObject({ type: 'failed', message: 'busy' });
    const again: Step = ['S', 0, hello({ connection: 2 })];
    expect(await outcome(first, error(true), again, error(false))).toMatchObject({ message: 'over' });
    expect(await outcome(first, error(false), again, error(true))).toMatchObject({ message: 'over' });
    expect(await outcome(first, error(true), again, ...FAULTLESS.slice(1))).toMatchObject({ type: 'running' });
  });

  const changed = (type: Frame['type'], attempt: number, change: (frame: Frame) => Frame | readonly Step[]): Step[] =>
    GOES_BACK.flatMap((step): Step[] => {
      const [from, stream, frame, payload] = step;
      if (frame.type !== type || ('attempt' in frame && frame.attempt !== attempt)) return [step];
      const made = change(frame);
      if (!('type' in made)) return [...made];
      return [payload === undefined ? [from, stream, made] : [from, stream, made, payload]];
    });
  const as = (more: object) => (frame: Frame) => ({ ...frame, ...more }) as Frame;

  test.each<[string, Step[], string | RegExp]>([
    [
      'device state of the attempt that was given up',
      changed('device', 2, as({ attempt: 1 })),
      'of attempt 1; 1 was given up',
    ],
    [
      'a switchover of another attempt',
      changed('switchover', 2, as({ attempt: 3 })),
      'of attempt 3, where 2 is under way',
    ],
    ['go of another attempt', changed('go', 2, as({ attempt: 1 })), 'a "go" frame of attempt 1, where 2 is under way'],
    [
      'a second answer to the old attempt',
      changed('ready', 2, as({ attempt: 1 })),
      '"ready" of attempt 1; it was asked for 2',
    ],
    [
      'back to another attempt',
      changed('back', 1, as({ attempt: 2 })),
      'a "back" frame of attempt 2, where 1 is under way',
    ],
    [
      'an answer to another going back',
      changed('backAck', 1, as({ attempt: 2 })),
      '"backAck" of attempt 2; the last one',
    ],
    [
      'a question for an attempt that was given up',
      changed('prepare', 2, as({ attempt: 1 })),
      'of attempt 1; 1 was given up',
    ],
    [
      'a question for no attempt',
      changed('prepare', 1, as({ attempt: 0 })),
      'a "prepare" frame of attempt 0; the first is 1',
    ],
    [
      'an answer to what was not asked',
      changed('prepared', 2, as({ deviceSequences: [0] })),
      'answers what was not asked',
    ],
    [
      'an answer that was given already',
      changed('prepared', 1, (frame) => [
        ['D', 0, frame],
        ['D', 0, frame],
      ]),
      'answers what was not asked',
    ],
    [
      'an answer of another destination',
      changed('prepared', 1, as({ incarnation: '2'.repeat(32) })),
      'of the incarnation 2222',
    ],
    ['numbers for more devices', changed('prepare', 1, as({ deviceSequences: [1, 1] })), 'numbers for 2 devices'],
    ['resets of no device', changed('backAck', 1, as({ deviceResets: [] })), '"backAck" has numbers for 0 devices'],
    ['pieces taken that have not come', changed('loaded', 0, as({ sequence: 2 })), 'has taken 2 pieces; 1 have come'],
    [
      'a device taken that there is not',
      changed('loaded', 0, as({ device: 3 })),
      '"loaded" of device 3; the hello lists 1',
    ],
    [
      'owed pages outside of their block',
      changed('owed', 0, as({ runs: [64, 1] })),
      'a "owed" frame reaches to page 65',
    ],
    [
      'a piece that does not begin anew',
      changed('device', 2, as({ sequence: 1 })),
      'piece 1 of device "serial" follows 0 pieces of attempt 2',
    ],
    ['a last piece while the guest runs', changed('device', 0, as({ last: true })), 'belongs to no stop-and-copy'],
    [
      'go while it goes back',
      changed('backAck', 1, () => [['S', 0, { type: 'go', attempt: 1 }]]),
      '"go" from the source',
    ],
    [
      'pages before the answer to back',
      changed('back', 1, () => [['S', 1, { type: 'pages', round: 3, block: 0, runs: [3, 1] }, PAGE]]),
      /phase "loading"/,
    ],
    [
      'an answer that comes too late',
      changed('running', 0, (frame) => [
        ['D', 0, { type: 'loaded', device: 0, sequence: 1 }],
        ['D', 0, frame],
      ]),
      'while the source is in phase "handing-over"',
    ],
    [
      'going back that was not agreed on',
      changed('welcome', 0, as({ features: [] })),
      'a "back" frame, though "back" was not agreed on',
    ],
    [
      'pages on the control stream',
      changed('loaded', 0, () => [['S', 0, { type: 'zeroPages', round: 3, block: 0, runs: [0, 1] }]]),
      'though there are page channels',
    ],
  ])('breaks the protocol by %s', async (_name, steps, says) => {
    const findings = await findingsOf(steps, true);
    expect(only(findings, 'violation')[0]?.message).toMatch(says);
    expect(only(findings, 'frame')).toHaveLength(steps.length);
    expect(summaryOf(findings)).toMatchObject({ whole: false });
  });

  test('is held to its attempts over all of its connections', async () => {
    const says = async (...steps: Step[]) => only(await findingsOf(steps), 'violation')[0]?.message;
    const lost = GOES_BACK.findIndex(([, , { type }]) => type === 'back');
    const before = GOES_BACK.slice(0, lost);
    const next = (more: object): Step => ['S', 0, hello({ features: ['back'], connection: 2, ...more })];
    expect(await says(...before, next({ stage: 'paused', attempt: 2 }))).toMatch(/goes on with attempt 2, where 1 is/);
    expect(await says(...before, next({ attempt: 0 }))).toMatch(/hello of attempt 0/);
    const given = GOES_BACK.slice(0, lost + 3);
    expect(await says(...given, next({ attempt: 1 }))).toMatch(/makes attempt 1 next; 1 was given up/);
    const old: Step = ['S', 0, { type: 'device', device: 0, sequence: 0, last: true, attempt: 1 }, 1];
    expect(await says(...before, next({ attempt: 2 }), ['D', 0, RESUMED], old)).toMatch(/of attempt 1; 1 was given up/);
    const other: Step = ['D', 0, { ...RESUMED, incarnation: '2'.repeat(32) }];
    expect(await says(...before, next({ attempt: 2 }), other)).toMatch(/"resumed" frame of the incarnation 2222/);
    const taken = await says(
      ...before,
      next({ attempt: 2 }),
      ['D', 0, { ...RESUMED, deviceResets: [2] }],
      ['S', 0, { type: 'back', attempt: 2 }],
      ['D', 0, { type: 'backAck', attempt: 2, deviceResets: [1] }],
    );
    expect(taken).toBe('"backAck" says that device "serial" was reset 1 times, where it had been 2');
    // A destination that was restarted says so, and begins anew.
    const welcome: Step = ['D', 0, { ...WELCOME, incarnation: '2'.repeat(32) } as Frame];
    expect(await says(...before, next({ attempt: 2 }), welcome)).toBeUndefined();
  });
});

describe('a frame that breaks the protocol', () => {
  const replaced = (index: number, ...steps: Step[]): Step[] =>
    FAULTLESS.flatMap((step, i) => (i === index ? steps : [step]));
  const inserted = (index: number, step: Step): Step[] => replaced(index, FAULTLESS[index] as Step, step);
  const pages = (runs: number[], payloadPages: number, round = 1): Step => [
    'S',
    1,
    { type: 'pages', round, block: 0, runs },
    payloadPages * PAGE,
  ];

  const CASES: readonly (readonly [string, Step[], string | RegExp])[] = [
    ['an empty run', replaced(2, pages([0, 3, 9, 0], 3)), 'has an empty run at page 9'],
    ['runs that overlap', replaced(2, pages([0, 2, 1, 1], 3)), 'has a run at page 1, which is not behind'],
    ['a page outside of its block', replaced(2, pages([62, 3], 3)), 'reaches to page 65 of block "ram", which has 64'],
    ['no runs', inserted(2, pages([], 0)), 'has no runs'],
    [
      'a payload that is too short',
      replaced(2, pages([0, 3], 2)),
      '3 pages of 4096 bytes, but a payload of 8192 bytes',
    ],
    [
      'a block that there is not',
      inserted(2, ['S', 1, { type: 'zeroPages', round: 1, block: 7, runs: [] }]),
      /has no runs|is of block 7/,
    ],
    [
      'a round that says more pages',
      replaced(4, ['S', 1, { type: 'roundEnd', round: 1, pages: 4 }]),
      'says 4 pages, but the file has 3',
    ],
    ['a lost frame', replaced(2), /says 3 pages, but the file has 0/],
    [
      'an acknowledgement of fewer pages',
      replaced(6, ['D', 0, { type: 'roundAck', round: 1, pages: 52 }]),
      'with 52 pages, but the file has 53',
    ],
    [
      'an acknowledgement of another round',
      inserted(6, ['D', 0, { type: 'roundAck', round: 9, pages: 1 }]),
      'round 9 is acknowledged',
    ],
    ['a round that is left out', replaced(7, pages([63, 1], 1, 3)), 'of round 3 follows round 1'],
    ['a round that was not acknowledged', replaced(6), 'of round 2 follows round 1, which is not acknowledged'],
    [
      'a piece of a device that there is not',
      inserted(11, ['S', 0, { type: 'device', device: 1, sequence: 0, last: true, attempt: 0 }, 1]),
      'a piece of device 1',
    ],
    [
      'a piece of a device that is lost',
      inserted(11, ['S', 0, { type: 'device', device: 0, sequence: 2, last: false, attempt: 0 }, 1]),
      'piece 2 of device "serial" follows 1 pieces',
    ],
    [
      'pages after the switchover',
      inserted(13, pages([1, 1], 1, 3)),
      '"pages" from the source while the destination is in phase "loading"',
    ],
    [
      'a device after go',
      inserted(15, ['S', 0, { type: 'device', device: 0, sequence: 2, last: true, attempt: 0 }, 1]),
      '"device" from the source while the destination is in phase "taking-over"',
    ],
    ['a link without a hello', replaced(0), 'the first frame is "welcome"; a "hello" begins a connection'],
    [
      'digests that do not fit',
      replaced(1, ['D', 0, { ...WELCOME, features: ['verify'] } as Frame], ...FAULTLESS.slice(2, 15), [
        'S',
        0,
        { type: 'digests', block: 0, runs: [0, 2] },
        8,
      ]).slice(0, 16),
      '2 digests of 8 bytes, but a payload of 8',
    ],
  ];

  test.each(CASES)('%s', async (_name, steps, says) => {
    const findings = await findingsOf(steps, true);
    const [violation] = only(findings, 'violation');
    expect(violation?.message).toMatch(says);
    // It stands right behind the frame that it is about, and the inspection goes on to the end.
    const frame = only(findings, 'frame').filter(({ offset }) => offset === violation?.offset);
    expect(frame).toHaveLength(1);
    expect(summaryOf(findings)).toMatchObject({ whole: false });
    expect(only(findings, 'frame')).toHaveLength(steps.length);
  });

  test('is counted, but not told for ever', async () => {
    const bad: Step = ['S', 1, { type: 'zeroPages', round: 1, block: 0, runs: [] }];
    const findings = await findingsOf([...FAULTLESS.slice(0, 2), ...new Array<Step>(300).fill(bad)]);
    expect(only(findings, 'violation')).toHaveLength(100);
    expect(summaryOf(findings).violations).toBe(300);
  });
});

describe('other files', () => {
  test('a bare control stream that carries the pages is added up by its rounds', async () => {
    const bytes = await bareStream([
      [hello({ pageChannels: 0 })],
      [{ type: 'pages', round: 1, block: 0, runs: [0, 2] }, 2 * PAGE],
      [{ type: 'roundEnd', round: 1, pages: 2 }],
      [{ type: 'zeroPages', round: 2, block: 0, runs: [0, 2] }],
      [{ type: 'roundEnd', round: 2, pages: 2 }],
      [{ type: 'switchover', round: 2, attempt: 1, runState: 'running' }],
      [{ type: 'go', attempt: 1 }],
    ]);
    const findings = await findingsIn(once(bytes));
    expect(only(findings, 'round')).toMatchObject([
      { round: 1, pages: { raw: 2, zero: 0 }, acknowledged: undefined },
      { round: 2, pages: { raw: 0, zero: 2 }, acknowledged: undefined },
    ]);
    expect(summaryOf(findings)).toMatchObject({ whole: true, outcome: { type: 'handed over' } });
  });

  test('a bare page channel and the answers of a destination are read without a hello', async () => {
    const channel = await bareStream([
      [{ type: 'attach', migrationId: hello().migrationId, index: 1, connection: 1 }],
      [{ type: 'pages', round: 1, block: 5, runs: [1000, 1] }, 65536],
      [{ type: 'roundEnd', round: 1, pages: 1 }],
    ]);
    expect(summaryOf(await findingsIn(once(channel)))).toMatchObject({ whole: true, pages: { raw: 1, zero: 0 } });
    const answers = await bareStream([
      [WELCOME],
      [{ type: 'roundAck', round: 1, pages: 5 }],
      [{ type: 'running', resumeMs: 1, sinceReadyMs: 0 }],
    ]);
    expect(summaryOf(await findingsIn(once(answers)))).toMatchObject({ whole: true, outcome: { type: 'running' } });
  });

  test('a torn file gives what is whole, and where it ends', async () => {
    const path = join(folder, 'torn.godwit');
    await record(path, FAULTLESS);
    const bytes = Buffer.concat(await createReadStream(path).toArray());
    const whole = await findingsIn(once(bytes), true);
    const frames = only(whole, 'frame');
    const { offset } = frames[2] as (typeof frames)[number];
    // Inside the payload of the third frame.
    const findings = await findingsIn(once(bytes.subarray(0, offset + 5000)), true);
    expect(only(findings, 'frame').slice(0, 2)).toEqual(frames.slice(0, 2));
    expect(only(findings, 'broken')).toEqual([
      {
        event: 'broken',
        offset,
        code: 'GODWIT_LINK_LOST',
        message: `it ends at byte ${offset + 5000}, inside the frame that starts at byte ${offset}`,
      },
    ]);
    expect(summaryOf(findings)).toMatchObject({ whole: false, outcome: { type: 'unfinished' } });
  });

  test('two gigabytes take no more memory than two megabytes', async () => {
    const frame = await bareStream([[{ type: 'pages', round: 1, block: 0, runs: [0, 256] }, 2 ** 20]]);
    const many = 2048;
    async function* stream(): AsyncGenerator<Uint8Array> {
      for (let i = 0; i < many; i++) yield frame;
    }
    await findingsIn(once(frame));
    const before = process.memoryUsage().rss;
    let most = 0;
    const watched = async function* (): AsyncGenerator<Uint8Array> {
      for await (const bytes of stream()) {
        most = Math.max(most, process.memoryUsage().rss);
        yield bytes;
      }
    };
    expect(summaryOf(await findingsIn(watched())).frames.pages).toEqual({ count: many, bytes: many * frame.length });
    expect((most - before) / 2 ** 20).toBeLessThan(128);
  });
});
