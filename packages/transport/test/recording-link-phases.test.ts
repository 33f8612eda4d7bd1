import {
  ALWAYS,
  DESTINATION_PHASES,
  type DestinationPhaseName,
  FRAME_TYPES,
  type Frame,
  type FrameName,
  type HelloFrame,
  isLegal,
  PAGE_CHANNEL_FRAMES,
  SOURCE_PHASES,
  type SourcePhaseName,
} from '@godwit/core';
import { LinkPhases, type Sender } from '@godwit/transport';
import { describe, expect, test } from '@jest/globals';

const INCARNATION = '1'.repeat(32);

function hello(more: Partial<HelloFrame> = {}): HelloFrame {
  return {
    type: 'hello',
    minimumVersion: 2,
    maximumVersion: 2,
    migrationId: '0'.repeat(32),
    software: 'test',
    pageSize: 4096,
    blocks: [],
    devices: [],
    features: [],
    pageChannels: 0,
    description: null,
    connection: 1,
    stage: 'running',
    attempt: 1,
    ...more,
  };
}

type Resumed = Extract<Frame, { type: 'resumed' }>;

function resumed(state: Resumed['state']): Frame {
  return {
    type: 'resumed',
    state,
    round: 1,
    deviceSequences: [],
    deviceResets: [],
    incarnation: INCARNATION,
    resumeMs: 0,
    sinceReadyMs: 0,
  };
}

/** One frame of each type, with nothing in it that matters. */
const FRAMES: { readonly [N in FrameName]: Extract<Frame, { type: N }> } = {
  hello: hello(),
  welcome: {
    type: 'welcome',
    version: 2,
    features: [],
    software: 'test',
    maximumPayload: 2 ** 20,
    incarnation: INCARNATION,
    maximumDeviceState: 0,
  },
  error: { type: 'error', code: 'GODWIT_CANCELLED', message: '', retry: false },
  attach: { type: 'attach', migrationId: '0'.repeat(32), index: 0, connection: 1 },
  pages: { type: 'pages', round: 1, block: 0, runs: [0, 1] },
  zeroPages: { type: 'zeroPages', round: 1, block: 0, runs: [0, 1] },
  roundEnd: { type: 'roundEnd', round: 1, pages: 0 },
  roundAck: { type: 'roundAck', round: 1, pages: 0 },
  device: { type: 'device', device: 0, sequence: 0, last: false, attempt: 1 },
  switchover: { type: 'switchover', round: 1, attempt: 1, runState: 'running' },
  ready: { type: 'ready', attempt: 1, loadMs: 0 },
  go: { type: 'go', attempt: 1 },
  running: { type: 'running', resumeMs: 0, sinceReadyMs: 0 },
  digests: { type: 'digests', block: 0, runs: [0, 1] },
  digestsEnd: { type: 'digestsEnd' },
  verified: { type: 'verified', pagesCompared: 0, pagesDifferent: 0, differences: [] },
  ping: { type: 'ping', id: 0 },
  pong: { type: 'pong', id: 0 },
  resumed: resumed('receiving') as Resumed,
  received: { type: 'received', block: 0, runs: [0, 1] },
  released: { type: 'released' },
  deltaPages: { type: 'deltaPages', round: 1, block: 0, runs: [0, 1] },
  compressedPages: { type: 'compressedPages', round: 1, block: 0, runs: [0, 1], encoding: 'zstd' },
  prepare: { type: 'prepare', attempt: 1, deviceSequences: [] },
  prepared: { type: 'prepared', incarnation: INCARNATION, attempt: 1, deviceSequences: [] },
  back: { type: 'back', attempt: 1 },
  backAck: { type: 'backAck', attempt: 1, deviceResets: [] },
  owed: { type: 'owed', block: 0, runs: [0, 1] },
  loaded: { type: 'loaded', device: 0, sequence: 1 },
  probe: { type: 'probe' },
  awaitPieces: { type: 'awaitPieces', id: 1, attempt: 1, deviceSequences: [] },
  arrived: { type: 'arrived', id: 1 },
  loadEarly: { type: 'loadEarly', attempt: 1, device: 0, deviceSequences: [] },
  missing: { type: 'missing', block: 0, runs: [0, 1] },
  requestPages: { type: 'requestPages', block: 0, page: 0, pages: 1 },
  whole: { type: 'whole' },
};
const NAMES = Object.keys(FRAME_TYPES) as FrameName[];
const from = (sender: Sender, ...frames: (Frame | FrameName)[]): [Sender, Frame][] =>
  frames.map((frame) => [sender, typeof frame === 'string' ? FRAMES[frame] : frame]);
const S = (...frames: (Frame | FrameName)[]): [Sender, Frame][] => from('source', ...frames);
const D = (...frames: (Frame | FrameName)[]): [Sender, Frame][] => from('destination', ...frames);

function phasesBehind(frames: readonly [Sender, Frame][], oneWay = false): LinkPhases {
  const phases = new LinkPhases({ oneWay });
  for (const [sender, frame] of frames) {
    const objection = phases.take(frame, sender);
    if (objection !== undefined) throw new Error(objection);
  }
  return phases;
}

const ASKED = [...S('hello'), ...D('welcome')];
const STOPPED = [...ASKED, ...S('roundEnd'), ...D('roundAck'), ...S('device')];
const LOADING = [...STOPPED, ...S('switchover')];
const READY = [...LOADING, ...D('loaded', 'ready')];
const VERIFYING = [...READY, ...S('digests', 'digestsEnd')];
const POSTCOPY = { features: ['postcopy'], pageChannels: 1 };
const AGREED = { ...FRAMES.welcome, features: ['postcopy'] } as Frame;
const MISSING = [...S(hello(POSTCOPY)), ...D(AGREED), ...S('roundEnd'), ...D('roundAck'), ...S('missing')];
const INCOMPLETE = [...MISSING, ...S('switchover'), ...D('ready'), ...S('go'), ...D('running')];
const again = (stage: HelloFrame['stage'], state: Resumed['state']): [Sender, Frame][] => [
  ...S(hello({ stage, connection: 2 })),
  ...D(resumed(state)),
];

/** Ways into every phase of both roles. */
const WAYS: readonly (readonly [string, [Sender, Frame][], SourcePhaseName | undefined, DestinationPhaseName])[] = [
  ['nothing yet', [], undefined, 'greeting'],
  ['hello', S('hello'), 'greeting', 'preparing'],
  ['welcome', ASKED, 'pre-copy', 'receiving'],
  ['prepare and its answer', [...ASKED, ...S('prepare'), ...D('owed', 'prepared')], 'pre-copy', 'receiving'],
  ['a piece of pre-copy', [...ASKED, ...S({ ...FRAMES.device, attempt: 0 })], 'pre-copy', 'receiving'],
  ['a piece of an attempt', STOPPED, 'stop-and-copy', 'receiving'],
  ['switchover', LOADING, 'loading', 'loading'],
  ['ready', READY, 'deciding', 'ready'],
  ['digests', [...READY, ...S('digests')], 'verifying', 'ready'],
  ['digestsEnd', VERIFYING, 'verifying', 'ready'],
  ['digestsEnd alone', [...READY, ...S('digestsEnd')], 'verifying', 'ready'],
  ['verified', [...VERIFYING, ...D('verified')], 'deciding', 'ready'],
  ['go', [...READY, ...S('go')], 'handing-over', 'taking-over'],
  ['running', [...READY, ...S('go'), ...D('running')], 'release', 'taking-over'],
  ['released', [...READY, ...S('go'), ...D('running'), ...S('released')], 'release', 'taking-over'],
  ['back while pages are sent', [...STOPPED, ...S('back'), ...D('roundAck')], 'going-back', 'receiving'],
  ['back while devices load', [...LOADING, ...S('back'), ...D('ready')], 'going-back', 'receiving'],
  ['back while memory is compared', [...VERIFYING, ...S('back'), ...D('verified')], 'going-back', 'receiving'],
  ['backAck', [...READY, ...S('back'), ...D('owed', 'backAck')], 'pre-copy', 'receiving'],
  ['the next attempt', [...READY, ...S('back'), ...D('backAck'), ...S('device', 'switchover')], 'loading', 'loading'],
  ['further: running', again('running', 'receiving'), 'pre-copy', 'receiving'],
  ['further: paused, receiving', again('paused', 'receiving'), 'stop-and-copy', 'receiving'],
  ['further: paused, loading', again('paused', 'loading'), 'loading', 'loading'],
  ['further: paused, ready', again('paused', 'ready'), 'deciding', 'ready'],
  ['further: handed over, ready', again('handedOver', 'ready'), 'deciding', 'ready'],
  ['further: handed over, running', again('handedOver', 'running'), 'release', 'taking-over'],
  ['missing', MISSING, 'pre-copy', 'receiving'],
  ['running, with pages missing', INCOMPLETE, 'post-copy', 'post-copy'],
  ['whole', [...INCOMPLETE, ...D('whole', 'roundAck')], 'post-copy', 'post-copy'],
  ['released after whole', [...INCOMPLETE, ...D('whole'), ...S('released')], 'release', 'post-copy'],
  ['further: handed over, incomplete', again('handedOver', 'incomplete'), 'post-copy', 'post-copy'],
  [
    'further: handed over, ready, with pages missing',
    [
      ...S(hello({ stage: 'handedOver', connection: 2, ...POSTCOPY })),
      ...D('missing', resumed('ready')),
      ...S('go'),
      ...D('running'),
    ],
    'post-copy',
    'post-copy',
  ],
  ['further: kept', again('kept', 'ready'), 'release', 'kept'],
  ['a question only', [...S(hello({ stage: 'dryRun' })), ...D('welcome')], 'release', 'dry-run'],
];

describe('the phases of a connection', () => {
  test('are all reached here', () => {
    expect(new Set(WAYS.map(([, , source]) => source))).toEqual(new Set([undefined, ...SOURCE_PHASES]));
    expect(new Set(WAYS.map(([, , , destination]) => destination))).toEqual(new Set(DESTINATION_PHASES));
  });

  test.each(WAYS)('follow from the frames: %s', (_name, frames, source, destination) => {
    const phases = phasesBehind(frames);
    expect([phases.source, phases.destination]).toEqual([source, destination]);
  });

  test.each(WAYS)('decide which frame may come next, as the table says: %s', (_name, frames, source, destination) => {
    const legal = (sender: Sender): FrameName[] =>
      NAMES.filter((name) => phasesBehind(frames).take(FRAMES[name], sender) === undefined);
    expect(legal('source')).toEqual(NAMES.filter((name) => isLegal('destination', destination, name)));
    if (source === undefined) return;
    expect(legal('destination')).toEqual(NAMES.filter((name) => isLegal('source', source, name)));
  });

  test('that a frame breaks are told with what would have been legal', () => {
    expect(phasesBehind(LOADING).take(FRAMES.pages, 'source')).toBe(
      '"pages" from the source while the destination is in phase "loading"; legal there: back',
    );
    expect(phasesBehind(READY).take(FRAMES.prepared, 'destination')).toBe(
      '"prepared" from the destination while the source is in phase "deciding"; legal there: nothing but ping, pong and error',
    );
  });

  test('go on after a lapse: one objection for each', () => {
    const phases = phasesBehind(LOADING);
    expect(phases.take(FRAMES.pages, 'source')).toBeDefined();
    expect(phases.take(FRAMES.zeroPages, 'source')).toBeUndefined();
    expect(phases.take(FRAMES.ready, 'destination')).toBeUndefined();
    expect(phases.take(FRAMES.go, 'source')).toBeUndefined();
    // A role cannot say what the other one says, and nothing follows from it.
    expect(phases.take(FRAMES.hello, 'destination')).toMatch(/^"hello" from the destination/);
    expect([phases.source, phases.destination]).toEqual(['handing-over', 'taking-over']);
  });

  test('begin with a hello; who joins later is told once', () => {
    const phases = new LinkPhases();
    expect(phases.take(FRAMES.roundAck, 'destination')).toBe(
      'the first frame is "roundAck"; a "hello" begins a connection',
    );
    for (const frame of [FRAMES.pages, FRAMES.prepare]) expect(phases.take(frame, 'source')).toBeUndefined();
    expect(phases.take(FRAMES.switchover, 'source')).toBeUndefined();
    expect(phases.take(FRAMES.pages, 'source')).toMatch(/phase "loading"/);
    const pinged = new LinkPhases();
    expect(pinged.take(FRAMES.ping, 'source')).toBeUndefined();
    expect([pinged.take(FRAMES.hello, 'source'), pinged.destination]).toEqual([undefined, 'preparing']);
  });

  test('keep page channels and the control stream apart', () => {
    const agreed = { ...FRAMES.welcome, features: ['deviceChannels'] } as Frame;
    const channels = [...S(hello({ pageChannels: 2 })), ...D(agreed)];
    for (const name of NAMES) {
      const pages = PAGE_CHANNEL_FRAMES.includes(name);
      expect([name, phasesBehind(channels).take(FRAMES[name], 'source', 1) === undefined]).toEqual([
        name,
        pages || name === 'device' || name === 'error',
      ]);
      expect([name, phasesBehind(channels).take(FRAMES[name], 'source') === undefined]).toEqual([
        name,
        !pages && isLegal('destination', 'receiving', name),
      ]);
      expect([name, phasesBehind(channels).take(FRAMES[name], 'destination', 2) === undefined]).toEqual([
        name,
        name === 'error',
      ]);
    }
    const late = [...channels, ...S('switchover')];
    expect(phasesBehind(late).take(FRAMES.pages, 'source', 1)).toMatch(/phase "loading"/);
    // A piece of device state may come later than what was said after it; that moves nobody.
    const behind = phasesBehind(late);
    expect(behind.take(FRAMES.device, 'source', 2)).toBeUndefined();
    expect([behind.source, behind.destination]).toEqual(['loading', 'loading']);
    expect(behind.take(FRAMES.device, 'source')).toMatch(/phase "loading"/);
    const back = phasesBehind([...channels, ...S('device', 'back')]);
    expect(back.take(FRAMES.device, 'source', 2)).toBeUndefined();
    expect(back.take(FRAMES.backAck, 'destination')).toBeUndefined();
    // Where it was not agreed on, page channels carry pages only.
    const apart = [...S(hello({ pageChannels: 2 })), ...D('welcome')];
    expect(phasesBehind(apart).take(FRAMES.device, 'source', 2)).toMatch(/which carries pages only/);
  });
});

describe('the urgent channel', () => {
  const further = (...frames: [Sender, Frame][]) =>
    phasesBehind([
      ...S(hello({ stage: 'handedOver', connection: 2, features: ['postcopy'], pageChannels: 3 })),
      ...frames,
    ]);
  const first = (...frames: [Sender, Frame][]) =>
    phasesBehind([...S(hello({ features: ['postcopy'], pageChannels: 3 })), ...D(AGREED), ...frames]);

  test('is the last stream of the hello, where it was agreed on', () => {
    const streams = [0, 1, 2, 3, 4];
    expect(streams.filter((stream) => first().isUrgent(stream))).toEqual([3]);
    const refused = phasesBehind([...S(hello({ features: ['postcopy'], pageChannels: 3 })), ...D('welcome')]);
    expect(streams.filter((stream) => refused.isUrgent(stream))).toEqual([]);
    expect(new LinkPhases().isUrgent(0)).toBe(false);
  });

  test('carries requests and answers only, whatever the phase of the control stream', () => {
    for (const phases of [
      () => first(...S('missing', 'switchover')),
      () => first(...S('missing', 'switchover'), ...D('ready'), ...S('go'), ...D('running')),
      () => further(),
      () => further(...D('missing', resumed('incomplete'))),
    ]) {
      const legal = (sender: Sender) => NAMES.filter((name) => phases().take(FRAMES[name], sender, 3) === undefined);
      expect(legal('source').sort()).toEqual(['error', 'pages']);
      expect(legal('destination').sort()).toEqual(['error', 'requestPages']);
    }
    expect(further().take(FRAMES.requestPages, 'destination', 2)).toMatch(/on a page channel, where it says nothing/);
    expect(further().take(FRAMES.requestPages, 'destination')).toMatch(/"requestPages" from the destination while/);
    expect(first(...S('missing', 'switchover')).take(FRAMES.whole, 'destination', 3)).toBe(
      '"whole" from the destination on the urgent channel, which carries requestPages and pages only',
    );
  });

  test.each<readonly [string, [Sender, Frame][]]>([
    ['nothing was named', []],
    ['the switchover, though pages were named', S('missing')],
    ['pages were named, at the switchover', S('switchover')],
    ['the next switchover of an attempt that was given up', [...S('missing', 'switchover', 'back'), ...D('backAck')]],
  ])('is silent before %s', (_name, frames) => {
    for (const [sender, type] of [
      ['destination', 'requestPages'],
      ['source', 'pages'],
    ] as const)
      expect(first(...frames).take(FRAMES[type], sender, 3)).toMatch(/no page is missing yet/);
  });

  test('leaves the control stream to pages where there is no other channel', () => {
    expect(phasesBehind(INCOMPLETE).take(FRAMES.pages, 'source')).toBeUndefined();
    const one = first(...S('missing', 'switchover'), ...D('ready'), ...S('go'), ...D('running'));
    expect(one.take(FRAMES.pages, 'source')).toMatch(/though there are page channels/);
    expect(one.take(FRAMES.pages, 'source', 2)).toBeUndefined();
  });

  test('does not tell over a further connection whether pages are missing still', () => {
    const phases = further(...D(resumed('ready')), ...S('go'), ...D('running'));
    expect([phases.source, phases.destination]).toEqual([undefined, 'post-copy']);
    for (const name of ['roundAck', 'whole'] as const) expect(phases.take(FRAMES[name], 'destination')).toBeUndefined();
    expect(phases.take(FRAMES.released, 'source')).toBeUndefined();
    // Named pages that a destination which goes back has forgotten are not missing.
    const back = phasesBehind([
      ...S(hello({ connection: 2, ...POSTCOPY })),
      ...D('missing', resumed('receiving')),
      ...S('switchover'),
      ...D('ready'),
      ...S('go'),
      ...D('running'),
    ]);
    expect(back.source).toBe('release');
  });
});

describe('one direction of a stream, captured', () => {
  test('of a migration by post-copy goes on behind go', () => {
    const said = S(
      hello(POSTCOPY),
      'pages',
      'roundEnd',
      'missing',
      'device',
      'missing',
      'switchover',
      'go',
      'pages',
      'roundEnd',
    );
    const phases = phasesBehind([...said, ...S('released')], true);
    expect(phases.take(FRAMES.prepare)).toMatch(/"prepare" from the source/);
    const answers = new LinkPhases({ oneWay: true });
    for (const name of ['welcome', 'roundAck', 'ready', 'running', 'roundAck', 'whole'] as const) {
      expect(answers.take(FRAMES[name])).toBeUndefined();
    }
    const named = new LinkPhases({ oneWay: true });
    for (const name of ['missing', 'resumed', 'whole'] as const) expect(named.take(FRAMES[name])).toBeUndefined();
    const urgent = new LinkPhases({ oneWay: true });
    for (const name of ['requestPages', 'requestPages'] as const) expect(urgent.take(FRAMES[name])).toBeUndefined();
  });

  test('counts answers that are not to be seen as given', () => {
    const said = S('hello', 'pages', 'roundEnd', 'device', 'switchover', 'digests', 'digestsEnd', 'go', 'released');
    expect(phasesBehind(said, true).destination).toBe('taking-over');
    const settled = S(hello({ stage: 'handedOver' }), 'go', 'released');
    expect(phasesBehind(settled, true).destination).toBe('taking-over');
    const back = S('hello', 'device', 'switchover', 'back', 'pages', 'roundEnd', 'device', 'switchover', 'go');
    expect(phasesBehind(back, true).destination).toBe('taking-over');
  });

  test('is still held to what no answer makes legal', () => {
    expect(phasesBehind(S('hello', 'switchover'), true).take(FRAMES.pages, 'source')).toMatch(/phase "loading"/);
    expect(phasesBehind(S('hello', 'switchover', 'go'), true).take(FRAMES.device)).toMatch(/phase "taking-over"/);
    expect(phasesBehind(S('switchover'), true).take(FRAMES.pages)).toMatch(/phase "loading"/);
  });

  test('of a destination is not held to what the source has asked', () => {
    const phases = new LinkPhases({ oneWay: true });
    for (const name of ['welcome', 'roundAck', 'prepared', 'ready', 'verified', 'running'] as const) {
      expect(phases.take(FRAMES[name])).toBeUndefined();
    }
  });

  test('of a page channel carries pages and device state only', () => {
    const phases = new LinkPhases({ oneWay: true });
    for (const name of ['attach', 'pages', 'zeroPages', 'roundEnd', 'device'] as const) {
      expect(phases.take(FRAMES[name])).toBeUndefined();
    }
    expect(phases.take(FRAMES.go)).toBe('"go" on a page channel, which carries pages and device state only');
  });
});

test('ping, pong and error are legal at any time', () => {
  for (const [, frames] of WAYS) {
    for (const name of ALWAYS) {
      expect(phasesBehind(frames).take(FRAMES[name], 'source')).toBeUndefined();
      expect(phasesBehind(frames).take(FRAMES[name], 'destination')).toBeUndefined();
    }
  }
});
