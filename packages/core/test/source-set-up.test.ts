import { claimOf, type HelloFrame, type MigratableDevice, type RoundOutcome } from '@godwit/core';
import { BufferMemory, FaultyDevice, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { held } from './played-stream.js';
import { BLOCKS, expectMoved, filledVm, PAGE, start, states, type ToyOptions } from './toy-migration.js';

/** A migration whose connections are counted; it ends on both sides when it ends at the source. */
function counted(options: ToyOptions & { readonly source: ToyVm }) {
  const made = { connections: 0 };
  const toy = start({
    ...options,
    connector: {
      connect: (request, signal) => {
        made.connections++;
        return toy.link.connector.connect(request, signal);
      },
    },
  });
  toy.migration.result.catch(() => toy.incoming.cancel());
  return { toy, made };
}

const blocked = (id: string, reason: string): MigratableDevice =>
  Object.assign(new FaultyDevice(id), { migrationBlocker: () => reason });

describe('refused before a connection is made', () => {
  test.each<readonly [string, () => ToyVm, string, RegExp]>([
    [
      'without a dirty tracker',
      () => Object.assign(filledVm(), { trackers: [] }),
      'GODWIT_INVALID_ARGUMENT',
      /tracker/,
    ],
    [
      'memory that overlaps',
      () => {
        const blocks = [...BLOCKS, { id: 'b', guestPhysicalAddress: PAGE, byteLength: PAGE }];
        return Object.assign(filledVm(), { memory: new BufferMemory(blocks) });
      },
      'GODWIT_INVALID_ARGUMENT',
      /"b"/,
    ],
    [
      'a shared block without an identity',
      () => {
        const vm = filledVm();
        for (const block of vm.memory.blocks) Object.assign(block, { shared: true });
        return vm;
      },
      'GODWIT_SHARED_MEMORY',
      /"ram" is declared shared, but has no identity/,
    ],
    ['a guest that has ended', () => Object.assign(filledVm(), { ended: true }), 'GODWIT_GUEST_ENDED', /ended/],
    [
      'a device that cannot be moved',
      () => Object.assign(filledVm(), { devices: [blocked('gpu', 'no firmware')] }),
      'GODWIT_BLOCKED',
      /now: device "gpu": no firmware$/,
    ],
    [
      'two of them, with both reasons',
      () => Object.assign(filledVm(), { devices: [blocked('gpu', 'no firmware'), blocked('nic', 'in use')] }),
      'GODWIT_BLOCKED',
      /device "gpu": no firmware; device "nic": in use$/,
    ],
  ])('%s', async (_, make, code, message) => {
    const source = make();
    const { toy, made } = counted({ source });
    await expect(toy.migration.result).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
    await toy.settled();
    expect([made.connections, source.pauses]).toEqual([0, 0]);
    expect(states(toy.events)).toEqual(['setup', 'failed']);
  });

  test('a migration that is cancelled at once, which does not even begin', async () => {
    let asked = 0;
    const device = Object.assign(new FaultyDevice('gpu'), { migrationBlocker: () => void asked++ });
    const { toy, made } = counted({ source: Object.assign(filledVm(), { devices: [device] }) });
    toy.migration.cancel();
    expect((await toy.settled()).code).toBe('GODWIT_CANCELLED');
    expect([made.connections, asked]).toEqual([0, 0]);
    expect(states(toy.events)).not.toContain('setup');
  });
});

test('the hello has the sizes that devices know; an assumption is a warning, and no reason to refuse', async () => {
  const told = Object.assign(new FaultyDevice('uart'), { stateBytes: () => 100 });
  const guessed = Object.assign(new FaultyDevice('gpu'), {
    stateBytes: () => ({ bytes: 5000, assumed: 'the driver does not say' }),
  });
  const source = Object.assign(filledVm(), { devices: [told, guessed] });
  const destination = new ToyVm(BLOCKS, {
    running: false,
    devices: [new FaultyDevice('uart'), new FaultyDevice('gpu')],
  });
  const hellos: HelloFrame[] = [];
  const toy = start({
    source,
    destination,
    link: {
      fromSource: (frame, payload) => {
        if (frame.type === 'hello') hellos.push(frame);
        return { frame, payload };
      },
    },
  });
  expectMoved(toy, await toy.settled());
  const sizes = hellos.map(({ devices }) => devices.map(({ id, stateBytes }) => [id, stateBytes]));
  expect(sizes).toEqual([
    [
      ['uart', 100],
      ['gpu', 0],
    ],
  ]);
  expect(toy.events.filter(({ type }) => type === 'warning')).toEqual([
    { type: 'warning', code: 'GODWIT_UNSUPPORTED', message: expect.stringContaining('the driver does not say') },
  ]);
});

test('the first prediction knows how long the devices expect to save, and the round trip, before any round has ended', async () => {
  const device = Object.assign(new FaultyDevice('uart'), { expectedSaveMs: () => 120 });
  const asked: RoundOutcome[] = [];
  const toy = start({
    source: Object.assign(filledVm(), { devices: [device] }),
    destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('uart')] }),
    // Round 1 takes half a second.
    link: { bytesPerSecond: 2 ** 18, latencyMs: 50 },
    migrate: {
      downtimeLimitMs: 5000,
      policy: ({ outcome }) => {
        asked.push(outcome);
        return outcome.round === 0 ? undefined : { action: 'switchover', reason: 'it is time' };
      },
    },
  });
  expectMoved(toy, await toy.settled());
  expect(asked[0]?.round).toBe(0);
  expect(asked[0]?.prediction.deviceMs).toBeGreaterThanOrEqual(100);
  // The link is measured while the policy is asked twice.
  expect(asked[2]?.round).toBe(0);
  expect(asked[2]?.prediction.roundTripMs).toBeGreaterThanOrEqual(100);
});

test('a dry run of a VM with a single obstacle fails with it', async () => {
  const { toy } = counted({
    source: Object.assign(filledVm(), { devices: [blocked('gpu', 'no firmware')] }),
    destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('gpu')] }),
    migrate: { dryRun: true },
  });
  await expect(toy.migration.result).rejects.toMatchObject({
    code: 'GODWIT_BLOCKED',
    message: 'the VM cannot be migrated now: device "gpu": no firmware',
  });
  await toy.settled();
});

test('a tracker that does not start keeps the VM claimed, whatever becomes of the migration', async () => {
  const source = filledVm();
  const { software } = source;
  const started = held();
  source.trackers = [
    {
      name: 'slow',
      start: async () => {
        await started.promise;
        await software.start();
      },
      harvest: (into) => software.harvest(into),
      stop: () => software.stop(),
    },
  ];
  const { toy } = counted({ source });
  await toy.clock.sleep(1);
  expect(claimOf(source).waitingFor).toEqual(['start() of the dirty tracker "slow"']);
  toy.migration.cancel();
  await toy.settled();
  expect(claimOf(source).state).toBe('outgoing');
  started.release();
  await claimOf(source).free;
});

test('a migration that would take the guest down for too long is refused before its first page moves', async () => {
  const source = filledVm();
  source.devices = [Object.assign(new FaultyDevice('disk'), { stateBytes: () => 40e6 })];
  const { toy } = counted({
    source,
    destination: new ToyVm(BLOCKS, { running: false, devices: [new FaultyDevice('disk')] }),
    link: { bytesPerSecond: 100e6 },
    migrate: { refuseAbove: { downtimeMs: 200 } },
  });
  await expect(toy.migration.result).rejects.toMatchObject({ code: 'GODWIT_ESTIMATE_EXCEEDED' });
  await toy.settled();
  expect(toy.events.filter(({ type }) => type === 'round-start')).toEqual([]);
});
