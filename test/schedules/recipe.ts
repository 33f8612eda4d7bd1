import type { Random } from '../fuzz/random.js';
import type { Call, Fault, Side, Trigger } from './fault.js';

/** Combinations of faults that random choice would seldom produce. Each is modelled on a way to lose a guest. */
export function randomRecipe(random: Random): Fault[] {
  switch (random.below(4)) {
    case 0:
      return retryAfterCancel(random);
    case 1:
      return goesBack(random);
    case 2:
      return lostHandOver(random);
    default:
      return backAndCut(random);
  }
}

/** The migration is cancelled while a call is slow to return, and started again at once. */
function retryAfterCancel(random: Random): Fault[] {
  const slow = random.pick(['pause', 'resume', 'save', 'stop', 'harvest'] as const);
  const again: Trigger = random.pick([
    { on: 'state', state: 'cancelling' },
    { on: 'ownership', side: 'source', state: 'kept' },
    { on: 'result', ms: 0 },
    { on: 'result', ms: 50 },
  ] as const);
  const cancelAt: Trigger = random.oneIn(2)
    ? { on: 'call', side: 'source', call: random.pick(['pause', 'save', 'harvest'] as const), nth: 1 }
    : { on: 'state', state: random.pick(['active', 'device', 'pre-switchover'] as const) };
  return [
    hang('source', slow, 1, random.pick([undefined, 30, 200, 900, 4000]), random.oneIn(3)),
    { trigger: cancelAt, action: { do: 'cancel', side: 'source', by: 'call' } },
    { trigger: again, action: { do: 'migrate again', vm: random.pick(['same', 'twin', 'same buffers']), to: 'other' } },
  ];
}

/** Stop-and-copy takes too long, one to three times. */
function goesBack(random: Random): Fault[] {
  const times = random.pick([1, 2, 2, 3]);
  return Array.from({ length: times }, (_, index): Fault => {
    const nth = index + 1;
    const ms = random.pick([600, 900, 1500]);
    switch (random.below(6)) {
      case 0:
        return hang('source', 'save', nth, ms, random.oneIn(2));
      case 1:
        return hang('destination', 'load', nth, ms, false);
      case 2:
        return frame('back', 'ready', nth, { do: 'garble', into: 'lost' });
      case 3:
        return frame('forth', 'switchover', nth, {
          do: 'stall',
          direction: random.pick(['forth', 'back', 'both']),
          ms,
        });
      case 4:
        return { trigger: { on: 'call', side: 'source', call: 'pause', nth }, action: { do: 'slow', ms } };
      default:
        return hang('source', 'harvest', nth * 2, ms, false);
    }
  });
}

/** The migration goes back, and at that moment the link is cut or its frames are lost. */
function backAndCut(random: Random): Fault[] {
  const at = random.pick(['back', 'backAck', 'ready', 'switchover', 'owed', 'prepared', 'device', 'roundEnd'] as const);
  const direction = ['back', 'switchover', 'device', 'roundEnd'].includes(at) ? 'forth' : 'back';
  const action = random.pick([
    { do: 'cut', delivered: false, streams: 'all' },
    { do: 'cut', delivered: true, streams: 'all' },
    { do: 'partition', ms: 100, refused: true },
    { do: 'stall', direction: 'both', ms: 700 },
    { do: 'die', side: 'destination', silent: false, restartAfterMs: 0 },
  ] as const);
  return [...goesBack(random), frame(direction, at, random.pick([1, 1, 2, 3]), action)];
}

/** `go` or the answer to it does not arrive, and the path is closed for a while. */
function lostHandOver(random: Random): Fault[] {
  const [direction, type] = random.pick([
    ['forth', 'go'],
    ['back', 'running'],
    ['forth', 'released'],
    ['back', 'ready'],
  ] as const);
  const partition: Fault = frame(direction, type, 1, {
    do: 'partition',
    ms: random.pick([100, 700, 3000, 20_000]),
    refused: random.oneIn(2),
  });
  const lost: Fault = frame(direction, type, 1, {
    do: 'garble',
    into: random.pick(['lost', 'ping', 'broken'] as const),
  });
  return random.oneIn(2)
    ? [partition]
    : [lost, frame(direction === 'forth' ? 'back' : 'forth', 'any', 30, partition.action)];
}

function frame(
  direction: 'forth' | 'back',
  type: Extract<Trigger, { on: 'frame' }>['type'],
  nth: number,
  action: Fault['action'],
): Fault {
  return { trigger: { on: 'frame', stage: 'sent', direction, type, nth }, action };
}

function hang(side: Side, call: Call, nth: number, ms: number | undefined, obeysSignal: boolean): Fault {
  return { trigger: { on: 'call', side, call, nth }, action: { do: 'hang', ms, fails: false, obeysSignal } };
}
