import { localAuthority, type MigrationEvent, type OwnershipAuthority, type Transfer } from '@godwit/core';
import { ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, start, type Toy, type ToyOptions } from './toy-migration.js';

const never = () => new Promise<never>(() => {});
const boom = () => Promise.reject(new Error('no quorum'));

/** An authority that notes what it is asked, and when; each call answers as `answers` has it, else as the local one. */
function authority(clock: VirtualClock, answers: Partial<OwnershipAuthority> = {}) {
  const asked: string[] = [];
  const transfers: Transfer[] = [];
  const note = (what: string, transfer: Transfer) => {
    asked.push(`${what} of attempt ${transfer.attempt} at ${clock.now()}`);
    transfers.push(transfer);
  };
  const of: OwnershipAuthority = {
    transfer: (transfer) => {
      note('transfer', transfer);
      return (answers.transfer ?? localAuthority.transfer)(transfer);
    },
    withdraw: (transfer) => {
      note('withdraw', transfer);
      return (answers.withdraw ?? localAuthority.withdraw)(transfer);
    },
    mayRun: (transfer, role) => {
      note(`mayRun the ${role}`, transfer);
      return (answers.mayRun ?? localAuthority.mayRun)(transfer, role);
    },
  };
  return { of, asked, transfers };
}

/** A migration whose sides have an authority each. */
function migration(
  source: Partial<OwnershipAuthority>,
  destination: Partial<OwnershipAuthority> = {},
  options: ToyOptions = {},
) {
  const clock = new VirtualClock();
  const [ours, theirs] = [authority(clock, source), authority(clock, destination)];
  const toy: Toy = start({
    ...options,
    migrate: { clock, switchoverTimeoutMs: 1000, progressIntervalMs: 0, ...options.migrate, authority: ours.of },
    receive: { progressIntervalMs: 0, ...options.receive, authority: theirs.of },
  });
  return { toy, clock, ours, theirs };
}

const warnings = (events: readonly (MigrationEvent | Toy['incomingEvents'][number])[]) =>
  events.flatMap((event) => (event.type === 'warning' ? [`${event.code}: ${event.message}`] : []));

/** The first call is answered as the first of these says, the next one as the second, and so on; the last one holds. */
function inTurn<T>(...answers: readonly (() => Promise<T>)[]): () => Promise<T> {
  let next = 0;
  return () => (answers[Math.min(next++, answers.length - 1)] as () => Promise<T>)();
}

describe('the source asks for the transfer', () => {
  test('once the destination is ready and before "go"; the destination asks after it, before the guest runs', async () => {
    const steps: string[] = [];
    const { toy, ours, theirs } = migration(
      {
        transfer: async () => {
          steps.push(`transfer: ${toy.migration.ownership}, ${toy.incoming.ownership}, ${toy.source.running}`);
          return 'granted';
        },
      },
      {
        mayRun: async () => {
          steps.push(`mayRun: ${toy.incoming.ownership}, ${toy.destination.running}`);
          return true;
        },
      },
      {
        link: {
          fromSource: (frame, payload) => {
            if (frame.type === 'go') steps.push('go');
            return { frame, payload };
          },
        },
      },
    );
    expectMoved(toy, await toy.settled());
    expect(steps).toEqual(['transfer: transferring, ready, false', 'go', 'mayRun: asking, false']);
    expect([ours.asked, theirs.asked]).toEqual([
      ['transfer of attempt 1 at 0'],
      ['mayRun the destination of attempt 1 at 0'],
    ]);
    const [asked] = ours.transfers;
    expect(theirs.transfers).toEqual([asked]);
    expect(asked).toEqual({
      migrationId: toy.migration.id,
      attempt: 1,
      incarnation: expect.stringMatching(/^[0-9a-f]{32}$/),
    });
  });

  test('and is refused: the guest runs on here, and the next attempt asks anew', async () => {
    const { toy, ours } = migration({
      transfer: inTurn<'granted' | 'refused'>(
        async () => 'refused',
        async () => 'granted',
      ),
    });
    expectMoved(toy, await toy.settled());
    expect(ours.asked).toEqual(['transfer of attempt 1 at 0', 'transfer of attempt 2 at 500']);
    expect(toy.source.resumes).toBe(1);
    const [back] = toy.events.filter(({ type }) => type === 'went-back');
    expect(back).toMatchObject({
      attempt: 1,
      reason: { code: 'GODWIT_SWITCHOVER_OVERRAN', message: expect.stringMatching(/refused/) },
    });
  });

  test('and is refused each time: three times are enough', async () => {
    const { toy, ours } = migration(
      { transfer: async () => 'refused' },
      {},
      { migrate: { policy: ({ overruns }) => (overruns < 3 ? { action: 'switchover', reason: 'now' } : undefined) } },
    );
    const ends = await toy.settled();
    expect([ends.code, toy.source.running, toy.migration.ownership]).toEqual(['GODWIT_NOT_CONVERGING', true, 'kept']);
    expect(ours.asked).toHaveLength(3);
    expect(toy.destination.resumes).toBe(0);
  });
});

describe('a transfer that fails, is not answered in time, or is answered with something else', () => {
  const FAILURES: readonly (readonly [string, OwnershipAuthority['transfer'], number, string])[] = [
    [
      'rejects',
      boom,
      0,
      'GODWIT_INTERNAL: asking the ownership authority for the transfer failed: no quorum; it is asked to withdraw it',
    ],
    [
      'throws',
      () => {
        throw new Error('no quorum');
      },
      0,
      'GODWIT_INTERNAL: asking the ownership authority for the transfer failed: no quorum; it is asked to withdraw it',
    ],
    [
      'hangs',
      never,
      1000,
      'GODWIT_TIMEOUT: the ownership authority has not answered within 1000 ms; it is asked to withdraw it',
    ],
    [
      'says true',
      async () => true as never,
      0,
      'GODWIT_INTERNAL: asking the ownership authority for the transfer failed: transfer() of the ownership authority has answered true, ' +
        'which is not one of its answers; it is asked to withdraw it',
    ],
  ];

  test.each(FAILURES)(
    '(it %s) and is withdrawn: the guest runs on, and moves later',
    async (_, transfer, ms, warning) => {
      const { toy, ours } = migration({
        transfer: inTurn<'granted' | 'refused'>(transfer as () => Promise<'granted'>, async () => 'granted'),
      });
      expectMoved(toy, await toy.settled());
      expect(ours.asked).toEqual([
        'transfer of attempt 1 at 0',
        `withdraw of attempt 1 at ${ms}`,
        `transfer of attempt 2 at ${ms + 500}`,
      ]);
      expect([warnings(toy.events), toy.source.resumes]).toEqual([[warning], 1]);
    },
  );

  test.each(FAILURES)('(it %s) but was granted: the guest moves', async (_, transfer, ms) => {
    const { toy, ours } = migration({ transfer, withdraw: async () => 'granted' });
    expectMoved(toy, await toy.settled());
    expect(ours.asked).toEqual(['transfer of attempt 1 at 0', `withdraw of attempt 1 at ${ms}`]);
    expect(toy.source.resumes).toBe(0);
  });

  test.each<readonly [string, OwnershipAuthority['withdraw'], string]>([
    ['rejects', boom, 'no quorum'],
    ['hangs', never, 'has not answered within 1000 ms'],
    ['says nothing', async () => undefined as never, 'withdraw() of the ownership authority has answered undefined'],
  ])(
    'and cannot be withdrawn (it %s): the guest stays paused, and only the authority leads on',
    async (_, withdraw, why) => {
      const { toy, ours } = migration({
        transfer: inTurn<'granted' | 'refused'>(boom, async () => 'granted'),
        withdraw,
      });
      await expect(toy.migration.result).rejects.toMatchObject({
        code: 'GODWIT_OWNERSHIP_UNKNOWN',
        message: expect.stringMatching(
          /^the migration failed before "go" was sent, but the ownership authority may have granted the transfer/,
        ),
      });
      await expect(toy.migration.result).rejects.toMatchObject({ message: expect.stringContaining(why) });
      expect([toy.source.running, toy.source.resumes, toy.migration.ownership]).toEqual([false, 0, 'unknown']);
      // The guest may be the destination's: it keeps what it has, and says that it waits.
      expect([toy.incoming.ownership, toy.incoming.state]).toEqual(['ready', 'active']);
      expect(toy.incomingEvents.at(-1)?.type).toBe('source-may-run');
      // `settle` asks for the transfer again: `go` was never said.
      await toy.migration.settle();
      await toy.incoming.result;
      expect(ours.asked.map((line) => line.split(' at ')[0])).toEqual([
        'transfer of attempt 1',
        'withdraw of attempt 1',
        'transfer of attempt 1',
      ]);
      expect([toy.source.running, toy.destination.running]).toEqual([false, true]);
    },
  );
});

/** "go" is lost with its link, and nobody asks by himself. */
function lost(source: Partial<OwnershipAuthority>) {
  let cut = false;
  const made: ReturnType<typeof migration> = migration(
    source,
    {},
    {
      migrate: { settleTimeoutMs: 0 },
      link: {
        fromSource: (frame, payload) => {
          if (frame.type !== 'go' || cut) return { frame, payload };
          cut = true;
          made.toy.link.cut();
          return undefined;
        },
      },
    },
  );
  return made;
}

test('settle after "go" asks the destination, and not the authority again', async () => {
  const { toy, ours } = lost({});
  await expect(toy.migration.result).rejects.toMatchObject({ code: 'GODWIT_OWNERSHIP_UNKNOWN' });
  await toy.migration.settle();
  await toy.incoming.result;
  expect([toy.source.running, toy.destination.running]).toEqual([false, true]);
  expect(ours.asked).toEqual(['transfer of attempt 1 at 0']);
});

describe('recover at the source', () => {
  test('withdraws a transfer that was never answered, and asks whether the guest may run here', async () => {
    const { toy, ours } = migration({
      transfer: boom,
      withdraw: inTurn<'withdrawn' | 'granted'>(
        boom,
        async () => 'granted',
        async () => 'withdrawn',
      ),
    });
    await toy.migration.result.catch(() => {});
    const recover = () => toy.migration.recover({ destinationIsDead: true });
    await expect(recover()).rejects.toMatchObject({ code: 'GODWIT_NOT_OWNER' });
    expect([toy.source.running, toy.migration.ownership]).toEqual([false, 'unknown']);
    await recover();
    expect([toy.source.running, toy.migration.ownership]).toEqual([true, 'recovered']);
    expect(ours.asked.map((line) => line.split(' at ')[0])).toEqual([
      'transfer of attempt 1',
      'withdraw of attempt 1',
      'withdraw of attempt 1',
      'withdraw of attempt 1',
      'mayRun the source of attempt 1',
    ]);
    toy.incoming.cancel();
    await toy.incoming.result.catch(() => {});
  });

  test.each<readonly [string, OwnershipAuthority['mayRun'], string]>([
    ['says no', async () => false, 'GODWIT_NOT_OWNER'],
    ['does not answer', never, 'GODWIT_TIMEOUT'],
  ])('after "go" is the authority\'s to allow: where it %s, the guest stays paused', async (_, mayRun, code) => {
    const { toy, ours } = lost({ mayRun });
    await toy.migration.result.catch(() => {});
    await expect(toy.migration.recover({ destinationIsDead: true })).rejects.toMatchObject({ code });
    expect([toy.source.running, toy.migration.ownership]).toEqual([false, 'unknown']);
    expect(ours.asked.map((line) => line.split(' at ')[0])).toEqual([
      'transfer of attempt 1',
      'mayRun the source of attempt 1',
    ]);
    toy.incoming.cancel();
    await toy.incoming.result.catch(() => {});
  });
});

describe('the destination asks whether it may run the guest', () => {
  test('again, as long as it gets no answer, and runs nothing meanwhile', async () => {
    const destination = new ToyVm(BLOCKS, { running: false });
    const { toy, theirs } = migration(
      {},
      { mayRun: inTurn<boolean>(boom, never, async () => true) },
      { destination, migrate: { switchoverTimeoutMs: 60_000 } },
    );
    expectMoved(toy, await toy.settled());
    expect(theirs.asked).toHaveLength(3);
    expect(warnings(toy.incomingEvents)).toEqual([
      'GODWIT_TIMEOUT: the ownership authority could not be asked, and is asked again: no quorum',
      expect.stringMatching(/^GODWIT_TIMEOUT: .*is asked again: it has not answered within \d+ ms$/),
    ]);
    expect(destination.resumes).toBe(1);
  });

  test('and is told that it is not the owner: it does not run, keeps its memory, and the source does not run either', async () => {
    const { toy } = migration({}, { mayRun: async () => false });
    const ends = await toy.settled();
    expect([ends.code, ends.receivedCode]).toEqual(['GODWIT_OWNERSHIP_UNKNOWN', 'GODWIT_NOT_OWNER']);
    expect([toy.source.running, toy.destination.running, toy.destination.abandoned]).toEqual([false, false, undefined]);
    expect([toy.migration.ownership, toy.incoming.ownership]).toEqual(['unknown', 'stranded']);
  });
});
