import {
  checkOptions,
  DirtyBitmap,
  delta,
  estimate,
  GodwitError,
  limitRamp,
  localMinimum,
  migrate,
  qemuPolicy,
  quoted,
  receive,
  roundCap,
  stalled,
  suggestion,
  throttleExhausted,
  throttleToConverge,
  vep248Rule,
} from '@godwit/core';
import { FaultyDevice, FaultyTracker, memoryLink, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';

/** Everything of an engine that is asked for options before anything else is touched. */
const nothing = {} as never;

function refused(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    expect(error).toMatchObject({ code: 'GODWIT_INVALID_ARGUMENT', retry: false });
    return (error as Error).message;
  }
  throw new Error('it was accepted');
}

describe('an option that does not exist is refused:', () => {
  const prepare = () => nothing;
  const calls: Record<string, { call: () => unknown; message: string }> = {
    'migrate, without its unit': {
      call: () => migrate(nothing, nothing, { downtimeLimit: 50 } as object),
      message: 'migrate has no option "downtimeLimit"; did you mean "downtimeLimitMs"?',
    },
    'migrate, with two letters exchanged': {
      call: () => migrate(nothing, nothing, { verfiy: true } as object),
      message: 'migrate has no option "verfiy"; did you mean "verify"?',
    },
    'migrate, in the wrong case': {
      call: () => migrate(nothing, nothing, { pagechannels: 1 } as object),
      message: 'migrate has no option "pagechannels"; did you mean "pageChannels"?',
    },
    'migrate, deeper': {
      call: () => migrate(nothing, nothing, { refuseAbove: { downtime: 1 } } as object),
      message: 'refuseAbove has no option "downtime"; did you mean "downtimeMs"?',
    },
    receive: {
      call: () => receive(nothing, { prepare, reconnectTimeout: 5 } as never),
      message: 'receive has no option "reconnectTimeout"; did you mean "reconnectTimeoutMs"?',
    },
    'the delta encoding': {
      call: () => delta({ cachebytes: 5 } as object),
      message: 'delta has no option "cachebytes"; did you mean "cacheBytes"?',
    },
    vep248Rule: { call: () => vep248Rule({ marjin: 1 } as object), message: 'did you mean "margin"?' },
    limitRamp: { call: () => limitRamp({ lastMs: 1, setps: 1 } as never), message: 'did you mean "steps"?' },
    throttleToConverge: {
      call: () => throttleToConverge({ mots: 0.5 } as object),
      message: 'did you mean "most"?',
    },
    stalled: { call: () => stalled({ rounds: 3, gian: 0.1 } as never, 'abort'), message: 'did you mean "gain"?' },
    localMinimum: {
      call: () => localMinimum({ rounds: 3, upToMS: 5 } as never),
      message: 'did you mean "upToMs"?',
    },
    qemuPolicy: { call: () => qemuPolicy({ autoconverge: true } as object), message: 'did you mean "autoConverge"?' },
    'migrate, the terms of an earlier migration': {
      call: () => migrate(nothing, nothing, { prior: { ramMS: 5 } } as object),
      message: 'prior has no option "ramMS"; did you mean "ramMs"?',
    },
    throttleExhausted: {
      call: () => throttleExhausted(0.5, { rounds: 3, leastMS: 5 } as never, 'abort'),
      message: 'throttleExhausted has no option "leastMS"; did you mean "leastMs"?',
    },
    memoryLink: { call: () => memoryLink({ latency: 5 } as object), message: 'did you mean "latencyMs"?' },
    ToyVm: { call: () => new ToyVm([], { runing: true } as object), message: 'did you mean "running"?' },
    FaultyDevice: {
      call: () => new FaultyDevice('nic', undefined, { failLoads: 1 } as object),
      message: 'FaultyDevice has no option "failLoads"; did you mean "failLoad"?',
    },
    FaultyTracker: {
      call: () => new FaultyTracker(nothing, nothing, { loseHarvests: 1 } as object),
      message: 'did you mean "loseHarvest"?',
    },
    'something far from all others, with all that there are': {
      call: () => delta({ speed: 'high' } as object),
      message: 'delta has no option "speed"; it has cacheBytes',
    },
    'no object at all': {
      call: () => migrate(nothing, nothing, 50 as never),
      message: 'migrate takes an object with options, got 50',
    },
  };
  for (const [name, { call, message }] of Object.entries(calls)) {
    test(name, () => expect(refused(call)).toContain(message));
  }

  test('estimate, with a rejection', () =>
    expect(estimate(nothing, 1e9, { sampleMS: 5 } as object)).rejects.toMatchObject({
      code: 'GODWIT_INVALID_ARGUMENT',
      message: 'estimate has no option "sampleMS"; did you mean "sampleMs"?',
    }));
});

describe('a value of the wrong type is quoted as it was given:', () => {
  const prepare = () => nothing;
  test.each<readonly [string, () => unknown, string]>([
    [
      'text for post-copy',
      () => migrate(nothing, nothing, { postcopy: 'no' as never }),
      "postcopy must be true or false, got 'no', a string",
    ],
    [
      'text for a term',
      () => migrate(nothing, nothing, { prior: { ramMs: '50' as never } }),
      "prior.ramMs must be a number of at least 0, got '50', a string",
    ],
    [
      'a word for a list of encodings',
      () => migrate(nothing, nothing, { encodings: 'delta' as never }),
      "encodings must be a list such as [delta()], got 'delta', a string",
    ],
    [
      'the name of an encoding for an encoding',
      () => receive(nothing, { prepare, encodings: ['delta' as never] }),
      "an encoding is what delta(), lz4() or zstd() returns, or one of your own, got 'delta', a string",
    ],
    [
      'an encoding without a name',
      () => migrate(nothing, nothing, { encodings: [{} as never] }),
      'the name of an encoding has from 1 to 32 characters a-z, 0-9, "." and "-", got undefined',
    ],
    ['an end of patience', () => roundCap(5, 'abrot' as never), 'got "abrot"; did you mean "abort"?'],
    [
      'an authority that lacks a method, before the guest is paused for it',
      () => migrate(nothing, nothing, { authority: { transfer() {}, mayRun() {} } as never }),
      'authority must have transfer(), withdraw() and mayRun(), got an object (Object) without withdraw()',
    ],
    [
      'an authority of the destination',
      () => receive(nothing, { prepare, authority: 'mine' as never }),
      "authority must have transfer(), withdraw() and mayRun(), got 'mine', a string",
    ],
    ['a clock', () => migrate(nothing, nothing, { clock: Date as never }), 'without sleep(), yield()'],
    [
      'a controller for its signal',
      () => migrate(nothing, nothing, { signal: new AbortController() as never }),
      'signal must be an AbortSignal, got an object (AbortController) without addEventListener()',
    ],
    [
      'a signal of the destination',
      () => receive(nothing, { prepare, signal: 5 as never }),
      'signal must be an AbortSignal, got 5',
    ],
    [
      'no connector',
      () => migrate(nothing, undefined as never),
      'migrate takes a connector, such as connectTo() returns, got undefined',
    ],
    [
      'a transport for a connector, whatever else is given',
      () => migrate(nothing, { listen() {} } as never, { pageChannels: 0 }),
      'got an object (Object) without connect()',
    ],
    [
      'a promise for a listener',
      () => receive(Promise.resolve() as never, { prepare }),
      'receive takes a listener, such as listenOn() resolves with, got an object (Promise) without accept()',
    ],
    ['text for a page count', () => new DirtyBitmap('50' as never), "got '50', a string"],
    [
      'text for a number',
      () => migrate(nothing, nothing, { downtimeLimitMs: '50' as never }),
      "downtimeLimitMs must be a number of at least 0, got '50', a string",
    ],
    [
      'text for page channels',
      () => migrate(nothing, nothing, { pageChannels: '4' as never }),
      "pageChannels must be 'auto' or a whole number from 0 to 64, got '4', a string",
    ],
    [
      'a bigint',
      () => migrate(nothing, nothing, { bandwidthLimit: 5n as never }),
      'bandwidthLimit must be a number of at least 0, got 5n, a bigint',
    ],
    [
      'text for true or false',
      () => migrate(nothing, nothing, { verify: 'no' as never }),
      "verify must be true or false, got 'no', a string",
    ],
    [
      'a policy that does not exist',
      () => migrate(nothing, nothing, { policy: 'balancd' as never }),
      'got "balancd"; did you mean "balanced"?',
    ],
    [
      'a word of several',
      () => receive(nothing, { prepare, onArrival: 'paused' as never }),
      'onArrival must be "run" or "pause", got "paused"; did you mean "pause"?',
    ],
    [
      'no prepare',
      () => receive(nothing, {} as never),
      "prepare must be a function that builds the VM from the source's description, got undefined",
    ],
  ])('%s', (_name, call, message) => expect(refused(call)).toContain(message));
});

test('what an error message shows of a value', () => {
  class Thing {}
  expect(
    [5, Number.NaN, '50', 'a\n"b"', true, undefined, null, 5n, [1, 2], {}, new Thing(), Object.create(null)].map(
      quoted,
    ),
  ).toEqual([
    '5',
    'NaN',
    "'50', a string",
    `'a\\n"b"', a string`,
    'true',
    'undefined',
    'null',
    '5n, a bigint',
    'an array of 2',
    'an object (Object)',
    'an object (Thing)',
    'an object (without a constructor)',
  ]);
  expect(quoted('x'.repeat(1000)).length).toBeLessThan(120);
  expect(quoted(() => 1)).toBe('a function');
});

test('a suggestion is near, or there is none', () => {
  const names = ['host', 'port', 'connectTimeoutMs'];
  expect(suggestion('prot', names)).toBe('; did you mean "port"?');
  expect(suggestion('connecttimeout', names)).toBe('; did you mean "connectTimeoutMs"?');
  expect(suggestion('conectTimoutMs', names)).toBe('; did you mean "connectTimeoutMs"?');
  expect(suggestion('colour', names)).toBe('');
  expect(suggestion('x', [])).toBe('');
});

test('options that exist are accepted, inherited properties are no options', () => {
  const known = { host: true, port: true } as const;
  expect(() => checkOptions<{ host?: string; port?: number }>('tcp', { host: 'x' }, known)).not.toThrow();
  expect(refused(() => checkOptions<object>('tcp', { toString: 1 }, known as object))).toContain(
    'tcp has no option "toString"; it has host, port',
  );
});

describe('the JSON of an error', () => {
  const plain = (error: GodwitError) => JSON.parse(JSON.stringify(error)) as unknown;

  test('has its message, code and retry, and its cause with the name of the system', () => {
    const cause = Object.assign(new Error('connect ECONNREFUSED 127.0.0.1:4444'), { code: 'ECONNREFUSED' });
    expect(plain(new GodwitError('GODWIT_CONNECT_FAILED', 'cannot connect', { cause }))).toEqual({
      name: 'GodwitError',
      code: 'GODWIT_CONNECT_FAILED',
      message: 'cannot connect',
      retry: true,
      remote: false,
      cause: { name: 'Error', code: 'ECONNREFUSED', message: 'connect ECONNREFUSED 127.0.0.1:4444' },
    });
  });

  test('has no cause where there is none, and a cause that is no error as its text', () => {
    expect(plain(new GodwitError('GODWIT_INTERNAL', 'x'))).not.toHaveProperty('cause');
    expect(plain(new GodwitError('GODWIT_INTERNAL', 'x', { cause: 'boo' }))).toMatchObject({
      cause: { message: 'boo' },
    });
    expect(plain(new GodwitError('GODWIT_INTERNAL', 'x', { cause: { a: 1n } }))).toMatchObject({
      cause: { message: 'an object (Object)' },
    });
  });

  test('has causes of causes, every error of several, and ends where they are a circle', () => {
    const inner = new GodwitError('GODWIT_BAD_STREAM', 'inner');
    const several = new AggregateError([new Error('first'), inner], 'both failed');
    expect(plain(new GodwitError('GODWIT_INTERNAL', 'x', { cause: several }))).toMatchObject({
      cause: {
        message: 'both failed',
        errors: [{ message: 'first' }, { code: 'GODWIT_BAD_STREAM', message: 'inner' }],
      },
    });
    const circle: Error & { cause?: unknown } = new Error('circle');
    circle.cause = circle;
    expect(JSON.stringify(new GodwitError('GODWIT_INTERNAL', 'x', { cause: circle }))).toContain('circle');
  });
});
