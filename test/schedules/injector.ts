import type { Frame } from '@godwit/core';
import { type Action, type Call, type Direction, type Fault, type Side, type Stage, UNNOTICED } from './fault.js';
import type { Delay } from './machine.js';
import type { Fate } from './network.js';

/** A fault that has struck. */
export interface Strike {
  readonly fault: Fault;
  readonly atMs: number;
}

/** Carries out a fault: `now`, inside the engine's call, or `behind`, right after it. */
export type Strikes = (fault: Fault, when: 'now' | 'behind') => void;

/** Actions from outside the process, such as a cut cable: they may happen while the engine's code is on the stack. */
const BY_ITSELF: readonly Action['do'][] = ['cut', 'stall', 'slow', 'partition', 'die'];

interface WaitingFault {
  readonly fault: Fault;
  seen: number;
}

/** Holds the faults of a schedule until their triggers occur. */
export class Injector {
  readonly #waiting: WaitingFault[];
  readonly #strike: Strikes;

  constructor(faults: readonly Fault[], strike: Strikes) {
    this.#waiting = faults.map((fault) => ({ fault, seen: 0 }));
    this.#strike = strike;
  }

  /** Removes and returns the faults that strike at a given time. */
  timed(): { readonly fault: Fault; readonly ms: number }[] {
    return this.#take(({ trigger }) => trigger.on === 'time').map((fault) => ({
      fault,
      ms: fault.trigger.on === 'time' ? fault.trigger.ms : 0,
    }));
  }

  afterResult(): { readonly fault: Fault; readonly ms: number }[] {
    return this.#take(({ trigger }) => trigger.on === 'result').map((fault) => ({
      fault,
      ms: fault.trigger.on === 'result' ? fault.trigger.ms : 0,
    }));
  }

  frame(direction: Direction, stage: Stage, frame: Frame): Fate {
    let fate: Fate = 'pass';
    for (const fault of this.#due(
      ({ trigger: t, action }) =>
        t.on === 'frame' &&
        t.direction === direction &&
        t.stage === stage &&
        (t.type === 'any' ? action.do !== 'garble' || !UNNOTICED.includes(frame.type) : t.type === frame.type),
    )) {
      this.#run(fault);
      if (fault.action.do === 'garble') fate = garbled(fault.action.into, direction);
    }
    return fate;
  }

  ownership(side: Side, state: string): void {
    for (const fault of this.#due(({ trigger: t }) => t.on === 'ownership' && t.side === side && t.state === state)) {
      this.#strike(fault, 'now');
    }
  }

  state(state: string): void {
    for (const fault of this.#due(({ trigger: t }) => t.on === 'state' && t.state === state))
      this.#strike(fault, 'now');
  }

  call(side: Side, call: Call): Delay | undefined {
    let delay: Delay | undefined;
    for (const fault of this.#due(({ trigger: t }) => t.on === 'call' && t.side === side && t.call === call)) {
      this.#run(fault);
      if (fault.action.do === 'hang') delay = fault.action;
    }
    return delay;
  }

  #run(fault: Fault): void {
    this.#strike(fault, BY_ITSELF.includes(fault.action.do) ? 'now' : 'behind');
  }

  /** Counts one occurrence for each fault that matches. Removes and returns those whose count is reached. */
  #due(matches: (fault: Fault) => boolean): Fault[] {
    if (this.#waiting.length === 0) return [];
    for (const one of this.#waiting) if (matches(one.fault)) one.seen++;
    return this.#take(({ trigger }, seen) => seen > 0 && seen >= ('nth' in trigger ? trigger.nth : 1));
  }

  #take(due: (fault: Fault, seen: number) => boolean): Fault[] {
    const taken: Fault[] = [];
    for (let at = this.#waiting.length - 1; at >= 0; at--) {
      const one = this.#waiting[at] as WaitingFault;
      if (!due(one.fault, one.seen)) continue;
      this.#waiting.splice(at, 1);
      taken.unshift(one.fault);
    }
    return taken;
  }
}

/** What becomes of a frame garbled as `into`. A frame of the wrong role is illegal in every phase. */
function garbled(into: 'lost' | 'ping' | 'illegal' | 'broken', direction: Direction): Fate {
  switch (into) {
    case 'ping':
      return { type: 'ping', id: 77 };
    case 'illegal':
      return direction === 'forth'
        ? { type: 'roundAck', round: 1, pages: 0 }
        : { type: 'roundEnd', round: 1, pages: 0 };
    default:
      return into;
  }
}
