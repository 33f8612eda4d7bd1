import type { ConvergencePolicy, Frame, IncomingEvent } from '@godwit/core';
import { type FrameTap, ToyFaultService } from '@godwit/core/testing';
import { expect, test } from '@jest/globals';
import { filledVm, PAGE, start, states, type Toy } from './toy-migration.js';

const postcopyAtOnce: ConvergencePolicy = () => ({ action: 'postcopy', reason: 'at once' });

/** What becomes of a frame on its way; `undefined`: it is lost, and the link is whole. */
type Change = (frame: Frame, toy: Toy) => Frame | undefined;

/** A guest that is moved by post-copy, over a link that changes what the destination says. */
function moved(change: Change, receive: object = {}): Toy {
  const source = filledVm();
  const tap =
    (from: 'source' | 'destination'): FrameTap =>
    (frame, payload) => {
      if (frame.type === 'roundEnd' && source.running)
        for (const page of [3, 4, 40]) source.write(0, page * PAGE, new Uint8Array(PAGE).fill(page));
      const changed = from === 'source' ? frame : change(frame, toy);
      return changed && { frame: changed, payload };
    };
  const toy = start({
    source,
    link: { fromSource: tap('source'), fromDestination: tap('destination') },
    migrate: { postcopy: true, policy: postcopyAtOnce, handshakeTimeoutMs: 700, random: () => 0.5 },
    receive: { faults: new ToyFaultService(), ...receive },
  });
  return toy;
}

const lostIn = (events: readonly ({ type: string } | IncomingEvent)[]): unknown[] =>
  events.flatMap((event) => ('reason' in event && event.type === 'link-lost' ? [event.reason] : []));

async function expectWhole(toy: Toy): Promise<void> {
  const { code, receivedCode } = await toy.settled();
  expect([code, receivedCode]).toEqual([undefined, undefined]);
  expect(toy.source.memory.firstDifference(toy.destination.memory)).toBeUndefined();
  expect([toy.source.running, toy.destination.running]).toEqual([false, true]);
  expect(toy.link.openStreams).toBe(0);
}

test('a destination that has acknowledged every page and does not say "whole" is asked over another connection', async () => {
  let lost = 0;
  const toy = moved((frame) => (frame.type === 'whole' && lost++ === 0 ? undefined : frame));
  await expectWhole(toy);
  expect(lost).toBe(1);
  expect(lostIn(toy.events)).toMatchObject([
    { code: 'GODWIT_TIMEOUT', message: expect.stringContaining('"whole" within handshakeTimeoutMs (700 ms)') },
  ]);
  expect(toy.clock.now()).toBeLessThan(2_000);
});

test('a destination that names a round in which it cannot be is asked again, and no page is sent in that round', async () => {
  let [cut, wrong] = [false, 0];
  const toy = moved((frame) => {
    if (frame.type === 'running' && !cut) {
      cut = true;
      toy.link.cut();
      return undefined;
    }
    return frame.type === 'resumed' && wrong++ === 0 ? { ...frame, round: frame.round + 5 } : frame;
  });
  await expectWhole(toy);
  expect(wrong).toBe(2);
  expect(lostIn(toy.incomingEvents)).toEqual([
    expect.objectContaining({ code: 'GODWIT_LINK_LOST' }),
    expect.objectContaining({ code: 'GODWIT_LINK_LOST' }),
  ]);
  expect(states(toy.events)).toContain('postcopy-active');
});
