import type { Frame } from '@godwit/core';
import { describe, expect, jest, test } from '@jest/globals';
import { only, RESUMED, RecordingFolder, summaryOf } from './recording-folder.js';
import { FAULTLESS, hello, PAGE, type Step, WELCOME } from './scripted-recording.js';

jest.setTimeout(60_000);

const folder = new RecordingFolder();
const findingsOf = (steps: readonly Step[], frames = false) => folder.findingsOf(steps, frames);

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
    ...(
      [
        ['pages outside of their block', { runs: [], firstPage: 32, words: [0, 1] }, 'reaches to page 65'],
        ['a bitmap inside a word', { runs: [], firstPage: 33, words: [1] }, 'has a bitmap from page 33 on'],
        ['no page', { runs: [], firstPage: 0, words: [0] }, 'has no runs'],
        ['both runs and a bitmap', { runs: [1, 1], firstPage: 0, words: [1] }, 'has runs and a bitmap'],
      ] as const
    ).map(([name, named, says]): readonly [string, Step[], string] => [
      `a bitmap with ${name}`,
      [
        FAULTLESS[0] as Step,
        ['D', 0, { ...WELCOME, features: ['bitmap'] } as Frame],
        ...FAULTLESS.slice(2, 8),
        ['S', 0, hello({ connection: 2 })],
        ['D', 0, { type: 'received', block: 0, ...named }],
        ['D', 0, { ...RESUMED, round: 2 }],
      ],
      `a "received" frame ${says}`,
    ]),
    [
      'pages of a block that both sides share',
      replaced(0, ['S', 0, hello({ blocks: hello().blocks.map((block) => ({ ...block, shared: true as const })) })]),
      'is of block "ram", which both sides share',
    ],
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
