import {
  ERROR_CODES,
  FEATURES,
  FRAME_TYPES,
  FRAMES_WITH_PAYLOAD,
  GodwitError,
  MIGRATION_TRANSITIONS,
  type MigrationState,
  PROTOCOL_VERSION,
} from '@godwit/core';
import { engineParts } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';

const { checkTransition, isFinal } = engineParts;

// These lists are API, or on the wire between versions: an entry may be added, none is changed or reused. The test vectors of
// packages/transport freeze the bytes of every frame.

test('the frame numbers of the wire are frozen', () => {
  expect(FRAME_TYPES).toEqual({
    hello: 1,
    welcome: 2,
    error: 3,
    attach: 4,
    pages: 5,
    zeroPages: 6,
    roundEnd: 7,
    roundAck: 8,
    device: 9,
    switchover: 10,
    ready: 11,
    go: 12,
    running: 13,
    digests: 14,
    digestsEnd: 15,
    verified: 16,
    ping: 17,
    pong: 18,
    resumed: 19,
    received: 20,
    released: 21,
    deltaPages: 24,
    compressedPages: 25,
    prepare: 26,
    prepared: 27,
    back: 28,
    backAck: 29,
    owed: 30,
    loaded: 31,
    probe: 32,
    awaitPieces: 33,
    arrived: 34,
    loadEarly: 35,
    missing: 36,
    requestPages: 37,
    whole: 38,
  });
  expect([...FRAMES_WITH_PAYLOAD].sort()).toEqual([
    'compressedPages',
    'deltaPages',
    'device',
    'digests',
    'pages',
    'probe',
  ]);
});

test('the protocol versions and features are frozen', () => {
  expect(PROTOCOL_VERSION).toEqual({ minimum: 2, maximum: 2 });
  expect(FEATURES).toEqual({
    ...{ verify: 'verify', checksum: 'checksum', back: 'back', probe: 'probe' },
    ...{ bitmap: 'bitmap', shared: 'shared' },
    ...{ deviceChannels: 'deviceChannels', loadEarly: 'loadEarly', postcopy: 'postcopy' },
  });
});

test('the error codes are frozen', () => {
  expect([...ERROR_CODES].sort()).toEqual([
    'GODWIT_BAD_STREAM',
    'GODWIT_BLOCKED',
    'GODWIT_CANCELLED',
    'GODWIT_CLAIMED',
    'GODWIT_CONNECT_FAILED',
    'GODWIT_DEVICE_BUSY',
    'GODWIT_DEVICE_FAILED',
    'GODWIT_DEVICE_MISMATCH',
    'GODWIT_ESTIMATE_EXCEEDED',
    'GODWIT_GUEST_CRASHED',
    'GODWIT_GUEST_ENDED',
    'GODWIT_HANDED_OVER',
    'GODWIT_INTERNAL',
    'GODWIT_INVALID_ARGUMENT',
    'GODWIT_INVALID_STATE',
    'GODWIT_LIMIT_EXCEEDED',
    'GODWIT_LINK_LOST',
    'GODWIT_MEMORY_MISMATCH',
    'GODWIT_NOT_CONVERGING',
    'GODWIT_NOT_OWNER',
    'GODWIT_OUT_OF_MEMORY',
    'GODWIT_OUT_OF_RANGE',
    'GODWIT_OWNERSHIP_UNKNOWN',
    'GODWIT_PAGES_MISSING',
    'GODWIT_PAGE_SIZE_MISMATCH',
    'GODWIT_PERMISSION',
    'GODWIT_PREPARE_FAILED',
    'GODWIT_PROTOCOL',
    'GODWIT_RECORDING_FAILED',
    'GODWIT_RECOVERED',
    'GODWIT_SHARED_MEMORY',
    'GODWIT_SWITCHOVER_OVERRAN',
    'GODWIT_SYSCALL',
    'GODWIT_TIMEOUT',
    'GODWIT_TRACKER_FAILED',
    'GODWIT_UNKNOWN_MIGRATION',
    'GODWIT_UNSUPPORTED',
    'GODWIT_VERIFY_FAILED',
    'GODWIT_VERSION_MISMATCH',
    'GODWIT_VM_FAILED',
  ]);
});

describe('the states of a migration', () => {
  const states = Object.keys(MIGRATION_TRANSITIONS) as MigrationState[];

  test('the transitions are those that are drawn', () => {
    expect(MIGRATION_TRANSITIONS).toEqual({
      none: ['setup', 'cancelling'],
      setup: ['active', 'completed', 'failed', 'cancelling'],
      active: ['reconnecting', 'pre-switchover', 'device', 'postcopy-device', 'completed', 'failed', 'cancelling'],
      reconnecting: ['active', 'device', 'postcopy-device', 'failed', 'cancelling'],
      'pre-switchover': ['device', 'postcopy-device', 'active', 'failed', 'cancelling'],
      device: ['reconnecting', 'active', 'settling', 'completed', 'failed', 'cancelling'],
      'postcopy-device': ['reconnecting', 'active', 'settling', 'postcopy-active', 'completed', 'failed', 'cancelling'],
      'postcopy-active': ['postcopy-paused', 'completed', 'failed'],
      'postcopy-paused': ['postcopy-recover', 'failed'],
      'postcopy-recover': ['postcopy-active', 'postcopy-paused', 'completed', 'failed'],
      settling: ['postcopy-active', 'completed', 'failed'],
      cancelling: ['cancelled', 'failed'],
      completed: [],
      failed: [],
      cancelled: [],
    });
  });

  /** Transitions back to an earlier state: after reconnecting, and after a switchover that was given up. */
  const BACK: readonly (readonly [MigrationState, MigrationState])[] = [
    ['reconnecting', 'active'],
    ['reconnecting', 'device'],
    ['pre-switchover', 'active'],
    ['device', 'active'],
    ['device', 'reconnecting'],
    ['reconnecting', 'postcopy-device'],
    ['postcopy-device', 'reconnecting'],
    ['postcopy-device', 'active'],
    ['postcopy-recover', 'postcopy-active'],
    ['postcopy-recover', 'postcopy-paused'],
  ];

  test('every state is reached, every state has an end, only a lost link and going back lead back', () => {
    const paths: MigrationState[][] = [];
    const walk = (path: MigrationState[]) => {
      const from = path.at(-1) as MigrationState;
      const next = MIGRATION_TRANSITIONS[from];
      if (next.length === 0) paths.push(path);
      for (const state of next) {
        if (BACK.some(([a, b]) => a === from && b === state)) continue;
        expect(path).not.toContain(state);
        walk([...path, state]);
      }
    };
    walk(['none']);
    expect(new Set(paths.flat())).toEqual(new Set(states));
    expect(new Set(paths.map((path) => path.at(-1)))).toEqual(new Set(['completed', 'failed', 'cancelled']));
    for (const path of paths) {
      // Nothing is handed over but through `device`, or post-copy's states (a dry run, which completes from `setup`, and a background snapshot,
      // from `active`, hand nothing over), and nothing is cancelled but through `cancelling`.
      if (path.at(-1) === 'completed') {
        const handedOver = path.some((state) => ['device', 'postcopy-device'].includes(state));
        expect(handedOver || ['setup', 'active'].includes(path.at(-2) as MigrationState)).toBe(true);
      }
      if (path.at(-1) === 'cancelled') expect(path.at(-2)).toBe('cancelling');
    }
    for (const [from, to] of BACK) expect(MIGRATION_TRANSITIONS[from]).toContain(to);
  });

  test('all others are refused', () => {
    for (const from of states) {
      for (const to of states) {
        if (MIGRATION_TRANSITIONS[from].includes(to)) expect(() => checkTransition(from, to)).not.toThrow();
        else expect(() => checkTransition(from, to)).toThrow(expect.objectContaining({ code: 'GODWIT_INVALID_STATE' }));
      }
      expect(isFinal(from)).toBe(['completed', 'failed', 'cancelled'].includes(from));
    }
  });
});

describe('GodwitError', () => {
  test('is recognised across copies of the package', () => {
    const foreign = Object.assign(new Error('x'), { [Symbol.for('@godwit/error')]: true, code: 'GODWIT_LINK_LOST' });
    expect(GodwitError.is(foreign)).toBe(true);
    for (const other of [new Error('x'), null, undefined, 'GODWIT_LINK_LOST', {}])
      expect(GodwitError.is(other)).toBe(false);
    expect(GodwitError.wrap(foreign, 'GODWIT_INTERNAL', 'context')).toBe(foreign);
  });

  test('keeps what it wraps', () => {
    const cause = new Error('no such device');
    const error = GodwitError.wrap(cause, 'GODWIT_CONNECT_FAILED', 'connecting failed');
    expect(error).toMatchObject({
      name: 'GodwitError',
      code: 'GODWIT_CONNECT_FAILED',
      message: 'connecting failed: no such device',
      cause,
      remote: false,
    });
    expect(GodwitError.wrap('odd', 'GODWIT_INTERNAL', 'context').message).toBe('context: odd');
    expect('cause' in new GodwitError('GODWIT_INTERNAL', 'x')).toBe(false);
  });

  test('says whether the same may go better when it is tried again', () => {
    const mayPass = ERROR_CODES.filter((code) => new GodwitError(code, 'x').retry);
    expect([...mayPass].sort()).toEqual([
      'GODWIT_CLAIMED',
      'GODWIT_CONNECT_FAILED',
      'GODWIT_LINK_LOST',
      'GODWIT_SWITCHOVER_OVERRAN',
      'GODWIT_TIMEOUT',
    ]);
    expect(new GodwitError('GODWIT_LINK_LOST', 'x', { retry: false }).retry).toBe(false);
    expect(new GodwitError('GODWIT_INTERNAL', 'x', { retry: true }).retry).toBe(true);
    // The peer says so itself.
    expect(new GodwitError('GODWIT_LINK_LOST', 'x', { remote: true }).retry).toBe(false);
    expect(new GodwitError('GODWIT_INTERNAL', 'x', { remote: true, retry: true }).retry).toBe(true);
  });
});
