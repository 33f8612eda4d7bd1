import { claimOf, type Frame, migrate } from '@godwit/core';
import { FaultyDevice, ToyVm } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, filledVm, PAGE, start, states, type Toy, type ToyOptions } from './toy-migration.js';

const ROM = { id: 'rom', guestPhysicalAddress: 2 ** 32, byteLength: 2 * PAGE };

/** A dry run of a VM with two devices, of which one can tell its size. */
function dryRun(options: ToyOptions = {}): Toy & { readonly frames: Frame['type'][] } {
  const blocks = [...BLOCKS, ROM];
  const source = filledVm(blocks);
  source.devices = [
    Object.assign(new FaultyDevice('disk', undefined, {}, 3), { stateBytes: () => 1234 }),
    new FaultyDevice('uart'),
  ];
  const devices = [new FaultyDevice('uart'), new FaultyDevice('disk', undefined, {}, 3)];
  const frames: Frame['type'][] = [];
  const toy = start({
    source,
    destination: new ToyVm(blocks, { running: false, devices }),
    receive: { maximumDeviceState: 5000 },
    link: {
      fromSource: (frame, payload) => {
        frames.push(frame.type);
        return { frame, payload };
      },
    },
    ...options,
    migrate: { dryRun: true, ...options.migrate },
  });
  return Object.assign(toy, { frames });
}

/** The destination waits for another source: it is told to stop. */
async function end(toy: Toy): Promise<void> {
  expect(toy.incoming.state).toBe('none');
  toy.incoming.cancel();
  await toy.incoming.result.catch(() => {});
  expect(toy.link.openStreams).toBe(0);
}

describe('a dry run', () => {
  test('reports what would be moved and what the destination has; nothing is sent, paused, tracked or kept', async () => {
    const toy = dryRun();
    const summary = await toy.migration.result;
    const report = {
      peer: 'memory',
      software: expect.stringMatching(/^godwit\//),
      version: 2,
      features: ['back', 'probe', 'bitmap', 'loadEarly'],
      ramBytes: 66 * PAGE,
      devices: [
        { id: 'disk', version: 3, stateBytes: 1234 },
        { id: 'uart', version: 1, stateBytes: 0 },
      ],
      maximumDeviceState: 5000,
      blockers: [],
    };
    const nothing = { downtimeMs: 0, rounds: [], rawBytes: 0, savedBytes: 0, attempts: [], verified: false };
    expect(summary).toMatchObject({ ...nothing, migrationId: toy.migration.id, dryRun: report });
    // The hello itself.
    expect(summary.wireBytes).toBeGreaterThan(0);
    expect(Object.values(summary.downtime)).toEqual(Array(7).fill({ predictedMs: 0, rangeMs: [0, 0], actualMs: 0 }));
    expect(Object.values(summary.pages)).toEqual([0, 0, 0, 0, 0]);
    expect(toy.events.filter(({ type }) => type === 'dry-run')).toEqual([{ type: 'dry-run', report }]);
    expect(states(toy.events)).toEqual(['setup', 'completed']);
    expect(toy.frames).toEqual(['hello']);
    expect([toy.source.running, toy.source.pauses, toy.source.resumes]).toEqual([true, 0, 0]);
    expect([claimOf(toy.source).state, claimOf(toy.destination).state]).toEqual(['idle', 'idle']);
    await toy.clock.sleep(1);
    expect(toy.destination.abandoned).toMatchObject({ message: expect.stringContaining('dry run') });
    expect(toy.incomingEvents).toContainEqual(expect.objectContaining({ type: 'hello', dryRun: true }));
    await end(toy);
  });

  test('takes the time that prepare takes, and no more', async () => {
    const toy = dryRun({
      prepare: async (vm) => {
        await toy.clock.sleep(700);
        return vm;
      },
    });
    expect(await toy.migration.result).toMatchObject({ totalMs: 700 });
    await end(toy);
  });

  test('is followed by the migration, which finds the destination as it was', async () => {
    const toy = dryRun();
    await toy.migration.result;
    const migration = migrate(toy.source, toy.link.connector, { clock: toy.clock });
    const summary = await migration.result;
    await toy.incoming.result;
    expect(summary.dryRun).toBeUndefined();
    expect(toy.source.memory.firstDifference(toy.destination.memory)).toBeUndefined();
    expect([toy.source.running, toy.destination.running]).toEqual([false, true]);
  });
});

describe('a dry run that finds an obstacle', () => {
  test('at the source fails with all of them, and the report has them one by one', async () => {
    const source = filledVm();
    const blocked = (id: string, why: string | undefined) =>
      Object.assign(new FaultyDevice(id), { migrationBlocker: async () => why });
    source.devices = [blocked('gpu', 'no firmware'), blocked('uart', undefined), blocked('nic', 'peer-to-peer DMA')];
    const devices = source.devices.map(({ id }) => new FaultyDevice(id));
    const toy = dryRun({ source, destination: new ToyVm(BLOCKS, { running: false, devices }) });
    await expect(toy.migration.result).rejects.toMatchObject({
      code: 'GODWIT_BLOCKED',
      message: expect.stringMatching(/^the VM cannot be migrated now: .*no firmware; .*peer-to-peer DMA$/),
    });
    const blockers = [expect.stringContaining('no firmware'), expect.stringContaining('peer-to-peer DMA')];
    const reports = toy.events.flatMap((event) => (event.type === 'dry-run' ? [event.report.blockers] : []));
    expect(reports).toEqual([blockers]);
    expect([toy.source.running, toy.source.pauses, claimOf(source).state]).toEqual([true, 0, 'idle']);
    await toy.clock.sleep(1);
    await end(toy);
  });

  test('at the destination fails with its reason, and the destination waits on', async () => {
    const toy = dryRun({ destination: new ToyVm(BLOCKS, { running: false }) });
    await expect(toy.migration.result).rejects.toMatchObject({ code: 'GODWIT_MEMORY_MISMATCH', remote: true });
    expect(toy.events.filter(({ type }) => type === 'dry-run')).toEqual([]);
    expect(claimOf(toy.source).state).toBe('idle');
    await toy.clock.sleep(1);
    await end(toy);
  });
});
