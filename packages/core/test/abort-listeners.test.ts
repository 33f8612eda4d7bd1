import { getEventListeners } from 'node:events';
import type { Frame } from '@godwit/core';
import { FaultyDevice, type FrameTap, ToyVm, VirtualClock } from '@godwit/core/testing';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, filledVm, start, switchAfter, type Toy, type ToyOptions } from './toy-migration.js';

const CUTS = 30;

/** Longer than all pauses together. Milliseconds. */
const LONG = { reconnectTimeoutMs: 600_000, settleTimeoutMs: 600_000, progressIntervalMs: 0 } as const;

/** Every signal that somebody has listened to since the test began, and that has not aborted. */
const heard = new Set<AbortSignal>();
const { addEventListener } = EventTarget.prototype;

beforeEach(() => {
  heard.clear();
  EventTarget.prototype.addEventListener = function (this: EventTarget, ...given) {
    if (this instanceof AbortSignal) heard.add(this);
    addEventListener.apply(this, given);
  };
});

afterEach(() => {
  EventTarget.prototype.addEventListener = addEventListener;
});

/** Listeners of each signal that has not aborted; the signals in the order in which they were first listened to. */
function listeners(): Map<AbortSignal, number> {
  for (const signal of heard) if (signal.aborted) heard.delete(signal);
  return new Map([...heard].map((signal) => [signal, getEventListeners(signal, 'abort').length] as const));
}

/** How many listeners each signal has at each cut. */
class Count {
  readonly #atCuts: Map<AbortSignal, number>[] = [];

  get cuts(): number {
    return this.#atCuts.length;
  }

  take(): void {
    this.#atCuts.push(listeners());
  }

  expectConstant(): void {
    const lasting = [...heardAtFirst(this.#atCuts)];
    // Of the source: the end of the migration, and the embedder's signal. The same of the destination.
    expect(lasting.length).toBeGreaterThanOrEqual(4);
    const most = (counts: readonly Map<AbortSignal, number>[]) =>
      lasting.map((signal) => Math.max(...counts.map((count) => count.get(signal) ?? 0)));
    const all = (counts: readonly Map<AbortSignal, number>[]) =>
      Math.max(...counts.map((count) => [...count.values()].reduce((sum, one) => sum + one, 0)));
    const [early, late] = [this.#atCuts.slice(0, CUTS / 3), this.#atCuts.slice(-CUTS / 3)];
    for (const [index, count] of most(late).entries()) expect(count).toBeLessThanOrEqual(most(early)[index] as number);
    // Nor do signals that were made since outlive their connections.
    expect(all(late)).toBeLessThanOrEqual(all(early));
    expect(Math.max(...most(this.#atCuts))).toBeLessThanOrEqual(10);
  }
}

/** Signals that have not aborted from the first cut to the last. */
function heardAtFirst(atCuts: readonly Map<AbortSignal, number>[]): Set<AbortSignal> {
  const lasting = new Set(atCuts[0]?.keys());
  for (const counts of atCuts) for (const signal of lasting) if (!counts.has(signal)) lasting.delete(signal);
  return lasting;
}

/** Cuts the link 30 times, as soon as a frame of this type is written; each later time at a frame of the type `then`. */
async function cutAt(
  from: 'source' | 'destination',
  type: Frame['type'],
  then = type,
  options: ToyOptions = {},
): Promise<Count> {
  const count = new Count();
  const [sourceEnds, destinationEnds] = [new AbortController(), new AbortController()];
  let toy: Toy | undefined;
  const tap =
    (direction: typeof from): FrameTap =>
    (frame, payload) => {
      if (direction === from && frame.type === (count.cuts === 0 ? type : then) && count.cuts < CUTS) {
        count.take();
        toy?.link.cut();
      }
      return { frame, payload };
    };
  const clock = new VirtualClock();
  toy = start({
    source: Object.assign(filledVm(), { devices: [new FaultyDevice('uart', Uint8Array.of(1))] }),
    destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart')] }),
    link: { clock, fromSource: tap('source'), fromDestination: tap('destination') },
    clock,
    ...options,
    migrate: {
      clock,
      signal: sourceEnds.signal,
      policy: switchAfter(3),
      connectTimeoutMs: 600_000,
      ...LONG,
      ...options.migrate,
    },
    receive: { clock, signal: destinationEnds.signal, ...LONG, ...options.receive },
  });
  expectMoved(toy, await toy.settled());
  expect(count.cuts).toBe(CUTS);
  for (const { signal } of [sourceEnds, destinationEnds]) expect(getEventListeners(signal, 'abort')).toEqual([]);
  return count;
}

describe(`a link that is cut ${CUTS} times leaves no listener with a signal that lasts`, () => {
  test.each([
    ['source', 'hello', 'hello'],
    ['source', 'roundEnd', 'roundEnd'],
    ['source', 'switchover', 'switchover'],
    ['source', 'go', 'go'],
    ['source', 'roundEnd', 'hello'],
    ['destination', 'roundAck', 'roundAck'],
    ['destination', 'roundAck', 'resumed'],
    ['destination', 'ready', 'resumed'],
    ['destination', 'running', 'resumed'],
  ] as const)('by the %s at "%s", then at "%s"', async (from, type, then) => {
    (await cutAt(from, type, then)).expectConstant();
  });

  test('with page channels, and while it verifies', async () => {
    const options = { migrate: { verify: true, pageChannels: 2 } };
    (await cutAt('destination', 'verified', 'verified', options)).expectConstant();
  });
});
