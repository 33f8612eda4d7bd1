import type { ConvergencePolicy } from '@godwit/core';
import { FaultyDevice, ToyFaultService, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, filledVm, PAGE, start, type Toy } from './toy-migration.js';

const HELD = 1000;

/** A guest whose device has so many bytes of state, which it tells; the destination holds 1,000. */
function moved(bytes: number, policy: ConvergencePolicy): Toy {
  const source = filledVm();
  source.devices = [Object.assign(new FaultyDevice('gpu', new Uint8Array(bytes)), { stateBytes: () => bytes })];
  const destination = new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('gpu')] });
  return start({
    ...{ source, destination, migrate: { postcopy: true, policy } },
    receive: { faults: new ToyFaultService(), maximumDeviceState: HELD },
    link: {
      fromSource: (frame, payload) => {
        if (frame.type === 'roundEnd' && source.running) source.write(0, 3 * PAGE, Uint8Array.of(9));
        return { frame, payload };
      },
    },
  });
}

describe('device state that the destination cannot hold until all pages are named', () => {
  test('is known before the guest is paused, where a device tells its size', async () => {
    const toy = moved(HELD + 1, ({ outcome }) => {
      if (outcome.round === 1) toy.migration.startPostcopy();
      return undefined;
    });
    const { code, sent } = await toy.settled();
    expect(code).toBe('GODWIT_LIMIT_EXCEEDED');
    expect(sent).toMatchObject({ reason: { message: expect.stringContaining('maximumDeviceState') } });
    expect([toy.source.pauses, toy.source.running]).toEqual([0, true]);
  });

  test('leaves a policy without post-copy, and state that fits does not', async () => {
    const seen: boolean[] = [];
    const policy: ConvergencePolicy = ({ outcome, canPostcopy }) => {
      seen.push(canPostcopy);
      if (outcome.round < 2) return undefined;
      return canPostcopy ? { action: 'postcopy', reason: 'it fits' } : { action: 'force', reason: 'it does not' };
    };
    const large = moved(HELD + 1, policy);
    expect((await large.settled()).code).toBeUndefined();
    expect(seen).not.toContain(true);
    const small = moved(HELD, policy);
    const { sent } = await small.settled();
    expect(sent).toMatchObject({ value: { postcopy: { pages: expect.any(Number) } } });
    for (const { source, destination } of [large, small])
      expect(source.memory.firstDifference(destination.memory)).toBeUndefined();
  });
});
