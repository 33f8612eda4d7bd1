import type { Action, Fault, Trigger } from './fault.js';
import type { Schedule } from './schedule.js';

/** Limit of the pause, from the return of `pause` to `go`, in these schedules. Milliseconds. */
export const PAUSE_LIMIT_MS = 500;

/** How long an obstacle lasts: far longer than the guest may be paused. Milliseconds. */
const OBSTACLE_MS = 2000;

/** A small guest that writes all the time, with a device of each kind that allows going back, on a link of 5 MB/s. */
const CALM: Schedule = {
  seed: 1,
  blocks: [128, 32],
  filledPercent: 60,
  devices: (['stop-only', 'iterative', 'load-writes'] as const).map((kind) => ({
    id: kind,
    kind,
    fillerBytes: 700,
    slowMs: 0,
    tellsWrites: kind !== 'stop-only',
    preparedMs: 5,
    blockedUntilMs: 0,
    obeysSignal: true,
  })),
  guest: {
    intervalMs: 5,
    writesPerInterval: 2,
    pattern: 'anywhere',
    burstAtPause: 0,
    pauseMs: 1,
    resumeMs: 1,
    tracker: 'manual',
    pausedByUser: false,
  },
  link: { bytesPerSecond: 5e6, latencyMs: 1, capacity: 4, resetLosesUnread: true },
  options: {
    downtimeLimitMs: 100,
    pauseLimitMs: PAUSE_LIMIT_MS,
    pageChannels: 2,
    delta: true,
    verify: false,
    checksum: false,
    heldMs: undefined,
    lease: undefined,
    onArrival: 'run',
    roundCap: 10_000,
    reconnectTimeoutMs: 8000,
    settleTimeoutMs: 8000,
    switchoverTimeoutMs: 5000,
    maximumDeviceState: undefined,
  },
  faults: [],
};

/** Schedules with one obstacle each while the guest is paused at the source, by name. The migration must survive each. */
export function obstacles(): { readonly name: string; readonly schedule: Schedule }[] {
  const whilePaused: Trigger = { on: 'call', side: 'source', call: 'save', nth: 1 };
  const atThePause: Trigger = { on: 'call', side: 'source', call: 'pause', nth: 1 };
  const list: [string, ...Fault[]][] = [
    ['the peer is silent', { trigger: whilePaused, action: { do: 'stall', direction: 'both', ms: OBSTACLE_MS } }],
    ['save hangs', hang('save', 'source', 1, true)],
    ['save hangs, and does not hear of it', hang('save', 'source', 1, false)],
    ['load hangs', hang('load', 'destination', 2, false)],
    ['the link is 100 times slower', { trigger: atThePause, action: { do: 'slow', ms: OBSTACLE_MS } }],
    ['the link is cut', { trigger: whilePaused, action: cut(false) }],
    ['nobody can connect', { trigger: whilePaused, action: { do: 'partition', ms: OBSTACLE_MS, refused: true } }],
    ['ready is lost', lost('back', 'ready')],
    ['back is lost', lost('back', 'ready'), lost('forth', 'back')],
    ['the answer to back is lost', lost('back', 'ready'), lost('back', 'backAck')],
    ['switchover is lost', lost('forth', 'switchover')],
  ];
  return list.map(([name, ...faults]) => ({ name, schedule: { ...BURST, faults } }));
}

/** A guest whose last writes before the pause, all sent as whole pages, keep a slow link busy for longer than the pause limit. */
const BURST: Schedule = {
  ...CALM,
  guest: { ...CALM.guest, burstAtPause: 400 },
  options: { ...CALM.options, delta: false },
};

/** Faults by which two stop-and-copies are given up. */
const TWICE: readonly Fault[] = [hang('load', 'destination', 2, false), lost('back', 'ready')];

/**
 * Makes `count` schedules of a migration that goes back twice and whose link is cut at the nth frame. The cuts are spread evenly over
 * the frames of each direction: at either end of the link and within payloads, with frames in flight lost or delivered.
 */
export function cutsWhileGoingBack(
  count: number,
  frames: { readonly forth: number; readonly back: number },
): Schedule[] {
  const places: Fault[] = [];
  for (const direction of ['forth', 'back'] as const) {
    for (let nth = 1; nth <= frames[direction]; nth++) {
      for (const stage of ['sent', 'arrived', 'reading'] as const) {
        for (const delivered of [false, true]) {
          places.push({ trigger: { on: 'frame', stage, direction, type: 'any', nth }, action: cut(delivered) });
        }
      }
    }
  }
  const chosen = Array.from(
    { length: Math.min(count, places.length) },
    (_, index) => places[Math.floor((index * places.length) / count)] as Fault,
  );
  return chosen.map((fault) => ({ ...GOES_BACK_TWICE, faults: [...TWICE, fault] }));
}

/** A migration that goes back twice, without a cut. */
export const GOES_BACK_TWICE: Schedule = {
  ...CALM,
  // With a smaller limit the estimate from the failed attempts delays the third attempt by seconds.
  options: { ...CALM.options, downtimeLimitMs: 2000 },
  faults: TWICE,
};

function hang(call: 'save' | 'load', side: 'source' | 'destination', nth: number, obeysSignal: boolean): Fault {
  return {
    trigger: { on: 'call', side, call, nth },
    action: { do: 'hang', ms: OBSTACLE_MS, fails: false, obeysSignal },
  };
}

function lost(direction: 'forth' | 'back', type: 'ready' | 'back' | 'backAck' | 'switchover'): Fault {
  return {
    trigger: { on: 'frame', stage: 'sent', direction, type, nth: 1 },
    action: { do: 'garble', into: 'lost' },
  };
}

function cut(delivered: boolean): Action {
  return { do: 'cut', delivered, streams: 'all' };
}
