import type { Frame } from '@godwit/core';
import { describe, expect, jest, test } from '@jest/globals';
import { only, RESUMED, RecordingFolder, summaryOf } from './recording-folder.js';
import { FAULTLESS, GOES_BACK, hello, PAGE, type Step, WELCOME } from './scripted-recording.js';

jest.setTimeout(60_000);

const folder = new RecordingFolder();
const findingsOf = (steps: readonly Step[], frames = false) => folder.findingsOf(steps, frames);

describe('a migration that goes back', () => {
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
      'a bitmap that was not agreed on',
      changed('owed', 0, as({ runs: [], firstPage: 32, words: [1] })),
      'a "owed" frame, though "bitmap" was not agreed on',
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
