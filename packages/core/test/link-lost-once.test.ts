import type { LinkConnector, MigrationEvent } from '@godwit/core';
import { type FrameTap, ToyFaultService } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { expectMoved, start, switchAfter, type Toy, type ToyOptions } from './toy-migration.js';

/** The events of links and of stop-and-copies that were given up, in order. */
function linkEvents({ events }: Toy): MigrationEvent['type'][] {
  return events.map(({ type }) => type).filter((type) => ['link-lost', 'reconnected', 'went-back'].includes(type));
}

/** A migration whose link is cut once, at the first frame of this type, which is lost. */
function cutAt(type: string, more: ToyOptions = {}): Toy {
  let cut = false;
  const tap: FrameTap = (frame, payload) => {
    if (cut || frame.type !== type) return { frame, payload };
    cut = true;
    toy.link.cut();
    return undefined;
  };
  const toy: Toy = start({
    ...more,
    link: { fromSource: tap, fromDestination: tap },
    migrate: { policy: switchAfter(1), random: () => 0.5, ...more.migrate },
  });
  return toy;
}

const POSTCOPY: ToyOptions = {
  migrate: { postcopy: true, policy: () => ({ action: 'postcopy', reason: 'at once' }) },
  receive: { faults: new ToyFaultService() },
};

describe('a link that is lost with the guest paused', () => {
  test.each([
    ['a switchover', {}],
    ['post-copy', POSTCOPY],
  ])('is told once where the destination lacks what was sent (%s)', async (_, more) => {
    const toy = cutAt('switchover', more);
    expectMoved(toy, await toy.settled());
    // The source lets go of the link on which it learned this, and makes another one.
    expect(linkEvents(toy)).toEqual(['link-lost', 'went-back', 'reconnected']);
    expect(toy.migration.status().attempt).toBe(2);
  });

  test('is told once where it cannot be made anew within the bound', async () => {
    const refusing: LinkConnector = {
      connect: (request, signal) =>
        request.connection > 1 && toy.clock.now() < lostAt + 1_500
          ? Promise.reject(new Error('ECONNREFUSED'))
          : toy.link.connector.connect(request, signal),
    };
    let lostAt = 0;
    const toy: Toy = cutAt('ready', { connector: refusing, migrate: { pauseLimitMs: 500 } });
    toy.migration.subscribe(({ type }) => {
      if (type === 'link-lost') lostAt = toy.clock.now();
    });
    expectMoved(toy, await toy.settled());
    expect(linkEvents(toy)).toEqual(['link-lost', 'went-back', 'reconnected']);
    // How long there was no link counts from its loss, and not from the end of the pause.
    const [back] = toy.events.filter((event) => event.type === 'reconnected');
    expect(back?.downMs).toBeGreaterThanOrEqual(1_500);
  });

  test('is told once where the attempt goes on over another link', async () => {
    const toy = cutAt('ready');
    expectMoved(toy, await toy.settled());
    expect(linkEvents(toy)).toEqual(['link-lost', 'reconnected']);
  });
});

test('each of two lost links is told', async () => {
  let cuts = 0;
  const toy: Toy = start({
    link: {
      fromDestination: (frame, payload) => {
        if (frame.type !== 'ready' && frame.type !== 'running') return { frame, payload };
        if (cuts++ > 1) return { frame, payload };
        toy.link.cut();
        return undefined;
      },
    },
    migrate: { policy: switchAfter(1), random: () => 0.5 },
  });
  expectMoved(toy, await toy.settled());
  expect(linkEvents(toy)).toEqual(['link-lost', 'reconnected', 'link-lost']);
});
