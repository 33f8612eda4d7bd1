import { FaultyDevice, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, filledVm, start, type Toy } from './toy-migration.js';

const never = () => new Promise<never>(() => {});

/** Cancels once the state is reached, and tells how long the guest then took to run. */
async function cancelledAt(toy: Toy, arrived: Promise<unknown>): Promise<number> {
  await arrived;
  await toy.clock.sleep(500);
  const asked = toy.clock.now();
  let ranAt: number | undefined;
  const { onResume } = toy.source;
  toy.source.onResume = () => {
    ranAt ??= toy.clock.now();
    return onResume();
  };
  const wasRunning = toy.source.running;
  expect(toy.migration.cancel()).toBe(true);
  const ends = await toy.settled();
  expect(ends.code).toBe('GODWIT_CANCELLED');
  expect(toy.migration.state).toBe('cancelled');
  expect(toy.link.openStreams).toBe(0);
  return wasRunning ? 0 : (ranAt ?? Number.NaN) - asked;
}

const pauseAsked = (source: ToyVm): Promise<void> =>
  new Promise((resolve) => {
    source.onPause = () => resolve();
  });

test.each(['start', 'harvest'] as const)(
  'a tracker that hangs in %s does not keep a migration from being cancelled',
  async (what) => {
    const source = filledVm();
    let hung: () => void = () => {};
    const hanging = new Promise<void>((resolve) => {
      hung = resolve;
    });
    const hang = () => {
      hung();
      return never();
    };
    source.trackers = [
      { name: 'kvm', start: async () => {}, stop: async () => {}, harvest: async () => {}, [what]: hang },
    ];
    const toy = start({ source });
    expect(await cancelledAt(toy, hanging)).toBe(0);
    expect(source.running).toBe(true);
  },
);

test('a tracker that starts after everything is over is stopped', async () => {
  const source = filledVm();
  let begin: () => void = () => {};
  let stops = 0;
  source.trackers = [
    {
      name: 'kvm',
      start: () =>
        new Promise((resolve) => {
          begin = resolve;
        }),
      harvest: async () => {},
      stop: async () => {
        stops++;
      },
    },
  ];
  const toy = start({ source });
  await cancelledAt(toy, toy.clock.sleep(100));
  begin();
  await toy.clock.sleep(1);
  expect(stops).toBe(1);
});

test('a device that hangs in save: the guest runs within 50 ms', async () => {
  const source = filledVm();
  source.devices = [new FaultyDevice('uart', Uint8Array.of(1), { hangSave: true })];
  const destination = new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart')] });
  const paused = pauseAsked(source);
  const toy = start({ source, destination });
  expect(await cancelledAt(toy, paused)).toBeLessThanOrEqual(50);
});

test('a pause that does not return: cancelled at once, and the guest is resumed as soon as it does', async () => {
  const source = filledVm();
  let returned: () => void = () => {};
  let asked: () => void = () => {};
  const pausing = new Promise<void>((resolve) => {
    asked = resolve;
  });
  source.onPause = () => {
    asked();
    return new Promise((resolve) => {
      returned = resolve;
    });
  };
  const toy = start({ source });
  await cancelledAt(toy, pausing);
  expect(toy.events).toContainEqual({
    type: 'warning',
    code: 'GODWIT_VM_FAILED',
    message: expect.stringContaining('pause() has not returned'),
  });
  expect([source.running, source.resumes]).toEqual([false, 0]);
  returned();
  await toy.clock.sleep(1);
  expect([source.running, source.resumes]).toEqual([true, 1]);
});

test('a tracker that does not stop is reported, and not waited for', async () => {
  const source = filledVm();
  source.trackers = [Object.assign(source.software, { stop: never })];
  const toy = start({ source });
  const ends = await toy.settled();
  expect(ends.code).toBeUndefined();
  expect(toy.events).toContainEqual({
    type: 'warning',
    code: 'GODWIT_TRACKER_FAILED',
    message: expect.stringContaining('has not stopped'),
  });
});

describe('a pause() that comes back after its stop-and-copy was given up', () => {
  /** The first `pause` takes 2 s, a `resume` takes one more: what is called while another call has not returned is told. */
  function slow(resumeFails = false) {
    const clock = new VirtualClock();
    const source = filledVm();
    const calls: string[] = [];
    const overlapping: string[] = [];
    let under = 0;
    let pauses = 0;
    const call =
      (name: string, ms: number, fails = false) =>
      async () => {
        calls.push(name);
        if (under++ > 0) overlapping.push(name);
        await clock.sleep(ms);
        under--;
        if (fails) throw new Error('no virtual CPU');
      };
    source.onPause = () => call('pause', pauses++ === 0 ? 2000 : 1)();
    source.onResume = call('resume', 1000, resumeFails);
    const toy = start({ clock, source, migrate: { pauseLimitMs: 500 } });
    return { toy, calls, overlapping };
  }

  test('is followed by resume(), and no other attempt begins before that has returned', async () => {
    const { toy, calls, overlapping } = slow();
    expectMoved(toy, await toy.settled());
    expect([calls, overlapping]).toEqual([['pause', 'resume', 'pause'], []]);
  });

  test('ends the migration when the guest cannot be resumed then', async () => {
    const { toy, calls } = slow(true);
    const ends = await toy.settled();
    expect(ends.code).toBe('GODWIT_VM_FAILED');
    expect(ends.sent).toMatchObject({
      reason: { message: expect.stringContaining('could not be resumed: no virtual CPU') },
    });
    expect(calls.slice(0, 2)).toEqual(['pause', 'resume']);
    expect([toy.source.running, toy.destination.running, toy.migration.ownership]).toEqual([false, false, 'kept']);
  });
});
