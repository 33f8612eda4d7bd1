import type { FrameName } from '@godwit/core';
import type { Random } from '../fuzz/random.js';

export type Side = 'source' | 'destination';

/** `forth`: from the source to the destination; `back`: the other way. */
export type Direction = 'forth' | 'back';

/** Where a frame is observed: written by the sender, arrived at the receiver, or with half of its payload read. */
export type Stage = 'sent' | 'arrived' | 'reading';

/** Calls of the engine into the VM and its devices and trackers. */
export const CALLS = ['pause', 'resume', 'save', 'load', 'precopy', 'prepared', 'harvest', 'stop', 'abandon'] as const;

export type Call = (typeof CALLS)[number];

export type Trigger =
  | {
      readonly on: 'frame';
      readonly stage: Stage;
      readonly direction: Direction;
      readonly type: FrameName | 'any';
      /** Counts from 1. */
      readonly nth: number;
    }
  | { readonly on: 'time'; readonly ms: number }
  /** The first migration enters this state: of the ownership on that side, or of the source's `state`. */
  | { readonly on: 'ownership'; readonly side: Side; readonly state: string }
  | { readonly on: 'state'; readonly state: string }
  /** The engine makes this call for the nth time. */
  | { readonly on: 'call'; readonly side: Side; readonly call: Call; readonly nth: number }
  /** Milliseconds after the first migration's result. */
  | { readonly on: 'result'; readonly ms: number };

/** How a frame is garbled: lost, or read as a ping, as a frame that is illegal in every phase, or as bytes that are no frame. */
export type Garbling = 'lost' | 'ping' | 'illegal' | 'broken';

export type Action =
  | { readonly do: 'cut'; readonly delivered: boolean; readonly streams: 'all' | 'control' | 'pages' }
  | { readonly do: 'garble'; readonly into: Garbling }
  | { readonly do: 'stall'; readonly direction: Direction | 'both'; readonly ms: number }
  | { readonly do: 'slow'; readonly ms: number }
  /** No connection can be made for `ms`: connecting fails at once with `refused`, else it waits. */
  | { readonly do: 'partition'; readonly ms: number; readonly refused: boolean }
  /** A process dies; with `silent` its peers get no reset. A destination may start again at the same address. */
  | {
      readonly do: 'die';
      readonly side: Side;
      readonly silent: boolean;
      readonly restartAfterMs: number | undefined;
    }
  | { readonly do: 'cancel'; readonly side: Side; readonly by: 'call' | 'signal' }
  /** Another `migrate` at the source: of the same VM object, or of another one over the same machine or the same memory. */
  | { readonly do: 'migrate again'; readonly vm: 'same' | 'twin' | 'same buffers'; readonly to: 'same' | 'other' }
  /** The destination migrates the VM that it is receiving, or has received, to a third process. */
  | { readonly do: 'migrate on' }
  | { readonly do: 'switch over'; readonly force: boolean }
  | { readonly do: 'adjust'; readonly downtimeLimitMs: number; readonly bandwidthLimit: number }
  /** `undefined`: the guest stays paused. */
  | { readonly do: 'user pause'; readonly ms: number | undefined }
  | { readonly do: 'guest ends' }
  /** The call that is the trigger takes `ms` longer (`undefined`: never returns), or fails. */
  | {
      readonly do: 'hang';
      readonly ms: number | undefined;
      readonly fails: boolean;
      /** The call returns early when its signal aborts. */
      readonly obeysSignal: boolean;
    };

export interface Fault {
  readonly trigger: Trigger;
  readonly action: Action;
}

/** Frames that faults choose from; those around the switchover are listed more often. */
const FORTH: readonly FrameName[] = [
  ...(['hello', 'pages', 'zeroPages', 'roundEnd', 'device', 'prepare', 'digests', 'digestsEnd'] as const),
  ...(['switchover', 'switchover', 'go', 'go', 'go', 'back', 'back', 'back', 'released', 'error', 'ping'] as const),
];
const BACK: readonly FrameName[] = [
  ...(['welcome', 'roundAck', 'roundAck', 'resumed', 'resumed', 'prepared', 'prepared', 'loaded', 'owed'] as const),
  ...(['ready', 'ready', 'ready', 'backAck', 'backAck', 'backAck', 'verified', 'running', 'running', 'error'] as const),
];

/** Frames whose loss leaves wrong memory that the engine cannot detect. They are garbled only with checksums. */
export const UNNOTICED: readonly FrameName[] = ['owed'];

const SOURCE_STATES = ['paused', 'paused', 'transferring', 'handedOver', 'released', 'kept', 'unknown', 'running'];
const DESTINATION_STATES = ['ready', 'ready', 'asking', 'running', 'settled', 'abandoned', 'stranded', 'receiving'];
const STATES = ['active', 'reconnecting', 'pre-switchover', 'device', 'device', 'settling', 'cancelling', 'failed'];

/** Zero to six independent faults. */
export function randomFaults(random: Random, devices: boolean): Fault[] {
  const count = random.pick([0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6]);
  return Array.from({ length: count }, () => randomFault(random, devices));
}

export function randomFault(random: Random, devices: boolean): Fault {
  const action = randomAction(random);
  if (action.do === 'hang') return { trigger: callTrigger(random, devices), action };
  if (action.do === 'garble') return { trigger: frameTrigger(random, true), action };
  return { trigger: randomTrigger(random, devices), action };
}

function randomTrigger(random: Random, devices: boolean): Trigger {
  const at = random.below(100);
  if (at < 50) return frameTrigger(random, false);
  if (at < 65) return { on: 'time', ms: logMs(random, 0.5, 3000) };
  if (at < 75) {
    return random.oneIn(2)
      ? { on: 'ownership', side: 'source', state: random.pick(SOURCE_STATES) }
      : { on: 'ownership', side: 'destination', state: random.pick(DESTINATION_STATES) };
  }
  if (at < 82) return { on: 'state', state: random.pick(STATES) };
  if (at < 95) return callTrigger(random, devices);
  return { on: 'result', ms: random.pick([0, 0, 1, 100, 3000]) };
}

function frameTrigger(random: Random, garbled: boolean): Trigger {
  const direction = random.pick(['forth', 'back'] as const);
  const stage = garbled ? 'sent' : random.pick(['sent', 'sent', 'arrived', 'arrived', 'reading'] as const);
  if (stage === 'reading') {
    return {
      on: 'frame',
      stage,
      direction: 'forth',
      type: random.pick(['pages', 'device'] as const),
      nth: few(random),
    };
  }
  if (random.oneIn(4)) return { on: 'frame', stage, direction, type: 'any', nth: 1 + random.below(40) };
  const types = direction === 'forth' ? FORTH : BACK;
  const type = random.pick(garbled ? types.filter((name) => !UNNOTICED.includes(name)) : types);
  return { on: 'frame', stage, direction, type, nth: few(random) };
}

function callTrigger(random: Random, devices: boolean): Trigger {
  const calls: readonly Call[] = devices
    ? ['pause', 'resume', 'save', 'save', 'load', 'load', 'precopy', 'prepared', 'harvest', 'stop', 'abandon']
    : ['pause', 'pause', 'resume', 'resume', 'prepared', 'harvest', 'stop', 'abandon'];
  const call = random.pick(calls);
  const side: Side =
    call === 'resume'
      ? random.pick(['source', 'destination'] as const)
      : ['load', 'prepared', 'abandon'].includes(call)
        ? 'destination'
        : 'source';
  return { on: 'call', side, call, nth: few(random) };
}

function randomAction(random: Random): Action {
  const at = random.below(100);
  if (at < 16) {
    return { do: 'cut', delivered: random.oneIn(3), streams: random.pick(['all', 'all', 'all', 'control', 'pages']) };
  }
  if (at < 26) return { do: 'garble', into: random.pick(['lost', 'lost', 'ping', 'illegal', 'broken']) };
  if (at < 36) {
    return {
      do: 'stall',
      direction: random.pick(['forth', 'back', 'both']),
      ms: random.pick([20, 100, 400, 1000, 4000, 20_000]),
    };
  }
  if (at < 42) return { do: 'slow', ms: random.pick([100, 400, 1000, 4000]) };
  if (at < 47) return { do: 'partition', ms: random.pick([100, 700, 3000, 20_000]), refused: random.oneIn(2) };
  if (at < 55) {
    const side = random.pick(['source', 'destination', 'destination'] as const);
    const restartAfterMs = side === 'destination' && !random.oneIn(3) ? random.pick([0, 0, 50, 1000]) : undefined;
    return { do: 'die', side, silent: random.oneIn(3), restartAfterMs };
  }
  if (at < 64) {
    return {
      do: 'cancel',
      side: random.pick(['source', 'source', 'destination']),
      by: random.pick(['call', 'signal']),
    };
  }
  if (at < 72) {
    const vm = random.pick(['same', 'same', 'twin', 'same buffers'] as const);
    return { do: 'migrate again', vm, to: random.pick(['same', 'other', 'other']) };
  }
  if (at < 74) return { do: 'migrate on' };
  if (at < 79) return { do: 'switch over', force: random.oneIn(3) };
  if (at < 82) {
    return { do: 'adjust', downtimeLimitMs: random.pick([1, 50, 1000]), bandwidthLimit: random.pick([0, 500_000]) };
  }
  if (at < 86) return { do: 'user pause', ms: random.pick([undefined, 20, 300]) };
  if (at < 87) return { do: 'guest ends' };
  return {
    do: 'hang',
    ms: random.pick([undefined, 30, 200, 200, 900, 900, 4000]),
    fails: random.oneIn(6),
    obeysSignal: random.oneIn(2),
  };
}

function few(random: Random): number {
  return random.pick([1, 1, 1, 1, 2, 2, 3, 4, 7, 12]);
}

function logMs(random: Random, low: number, high: number): number {
  return Math.round(low * (high / low) ** (random.next() / 2 ** 32) * 10) / 10;
}

/** The fault as text, for traces. */
export function faultInWords({ trigger, action }: Fault): string {
  return `${JSON.stringify(action)} when ${JSON.stringify(trigger)}`;
}
