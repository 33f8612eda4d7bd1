import { withinDowntimeLimit } from '@godwit/core';
import { type Scenario, type Simulation, simulate } from '@godwit/core/simulation';
import { describe, expect, test } from '@jest/globals';
import { summaryOf } from './summary-of.js';

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const PLAIN = { policy: withinDowntimeLimit, suggestions: false } as const;
const IDLE: Scenario = {
  memory: { bytes: GIB },
  workload: { kind: 'idle' },
  link: { bytesPerSecond: 1e9, latencyMs: 0 },
};

/** How long round 1 has taken, in milliseconds. */
const firstRound = ({ rounds }: Simulation) => rounds[0]?.totalMs as number;

/** What a GiB takes at 1 GB/s. */
const GIB_MS = GIB / 1e6;

describe('the link', () => {
  test('is shared by all channels', async () => {
    for (const channels of [1, 4, 16]) {
      const run = await simulate({ ...IDLE, link: { ...IDLE.link, channels } }, PLAIN);
      expect(firstRound(run) / GIB_MS).toBeCloseTo(1, 2);
    }
  });

  test('is used up by as many channels as it takes', async () => {
    const link = { bytesPerSecond: 1e9, channelBytesPerSecond: 250e6 };
    const took = async (channels: number) =>
      firstRound(await simulate({ ...IDLE, link: { ...link, channels } }, PLAIN));
    expect((await took(1)) / GIB_MS).toBeCloseTo(4, 1);
    expect((await took(2)) / GIB_MS).toBeCloseTo(2, 1);
    expect((await took(8)) / GIB_MS).toBeCloseTo(1, 1);
  });

  test('changes its rate in the middle of what is sent', async () => {
    const changes = [
      { atMs: 500, bytesPerSecond: 100e6 },
      { atMs: 1500, bytesPerSecond: 2e9 },
    ];
    const run = await simulate({ ...IDLE, link: { ...IDLE.link, changes } }, PLAIN);
    // 500 MB, then 100 MB in a second, then the rest at twice the rate.
    const expected = 1500 + (GIB - 600e6) / 2e6;
    expect(firstRound(run) / expected).toBeCloseTo(1, 2);
  });

  test('has a latency that each round and the switchover pay, there and back', async () => {
    const run = await simulate({ ...IDLE, link: { ...IDLE.link, latencyMs: 20 } }, PLAIN);
    const { roundTripMs } = summaryOf(run).downtime;
    expect(roundTripMs.actualMs).toBeGreaterThanOrEqual(60);
    expect(roundTripMs.actualMs).toBeLessThan(81);
    expect(firstRound(run) - GIB_MS).toBeGreaterThan(39);
  });

  test('is cut, and what has arrived is not sent again', async () => {
    const cuts = [
      { atMs: 300, lastMs: 200 },
      { atMs: 900, lastMs: 50 },
    ];
    const run = await simulate({ ...IDLE, link: { ...IDLE.link, channels: 2, cuts } }, PLAIN);
    expect(run.outcome).toBe('converged');
    const { wireBytes } = summaryOf(run);
    // At most the batches in flight are sent twice at each cut.
    expect(wireBytes - GIB).toBeLessThan(2 * 4 * 2 * 16 * MIB);
    expect(firstRound(run)).toBeGreaterThan(GIB_MS + 250);
  });

  test('that stays cut ends the migration as any lost link does', async () => {
    const cuts = [{ atMs: 300, lastMs: 100_000 }];
    const run = await simulate({ ...IDLE, link: { ...IDLE.link, cuts } }, { ...PLAIN, stopAfterMs: 90_000 });
    expect([run.outcome, run.error?.code]).toEqual(['failed', 'GODWIT_LINK_LOST']);
  });
});

describe('pages', () => {
  test('without memory behind them are not sent', async () => {
    const run = await simulate({ ...IDLE, memory: { bytes: 64 * GIB, populatedBytes: GIB } }, PLAIN);
    expect(run.summary?.rawBytes).toBe(GIB);
  });

  test('that are zero take no bytes, unless the guest writes them', async () => {
    const memory = { bytes: GIB, zeroShare: 0.75 };
    const idle = await simulate({ ...IDLE, memory }, PLAIN);
    expect(idle.summary?.pages.zero).toBe((0.75 * GIB) / 4096);
    expect(idle.summary?.wireBytes).toBeLessThan(0.26 * GIB);
    const workload = { kind: 'uniform', rate: 1e6, bytes: GIB / 2 } as const;
    const busy = await simulate({ ...IDLE, memory, workload }, PLAIN);
    expect(busy.summary?.pages.zero).toBe((0.75 * GIB) / 2 / 4096);
  });

  test('that are sent again take the bytes that their encodings need', async () => {
    const scenario: Scenario = {
      ...IDLE,
      workload: { kind: 'uniform', rate: 300e6, bytes: GIB / 2 },
      encoding: { deltaShare: 0.5, deltaRatio: 0.1, compressedRatio: 0.4 },
    };
    const run = await simulate(scenario, { ...PLAIN, downtimeLimitMs: 50 });
    const [first, second] = run.rounds;
    expect((first?.wireBytes ?? 0) / GIB).toBeCloseTo(0.4, 2);
    expect(second?.pages.delta).toBeCloseTo((second?.dirtyPages ?? 0) / 2, -1);
    expect((second?.wireBytes ?? 0) / (second?.rawBytes ?? 1)).toBeCloseTo(0.25, 2);
    expect(second?.savedBytes).toBeGreaterThan(0.7 * (second?.rawBytes ?? 0));
  });

  test('are looked at, at the rate of the host', async () => {
    const run = await simulate({ ...IDLE, host: { scanBytesPerSecond: 500e6 } }, PLAIN);
    // The last batch is sent when all of them were looked at.
    expect(firstRound(run) / GIB_MS).toBeGreaterThan(2);
    expect(firstRound(run) / GIB_MS).toBeLessThan(2.15);
    expect((run.rounds[0]?.scanMs ?? 0) / GIB_MS).toBeCloseTo(2, 1);
  });
});

describe('the downtime has', () => {
  const terms = async (scenario: Partial<Scenario>) => {
    const run = await simulate({ ...IDLE, ...scenario }, { ...PLAIN, downtimeLimitMs: 5000 });
    return summaryOf(run).downtime;
  };

  test('the times of the hosts', async () => {
    const { pauseMs, resumeMs, harvestMs } = await terms({ host: { pauseMs: 7, resumeMs: 11, harvestMs: 3 } });
    expect([pauseMs.actualMs, resumeMs.actualMs]).toEqual([7, 11]);
    expect(harvestMs.actualMs).toBeCloseTo(9, 3);
  });

  test('nothing of the time in which the destination makes the VM, which the first round waits for', async () => {
    const at = async (prepareMs: number) => summaryOf(await simulate({ ...IDLE, host: { prepareMs } }, PLAIN));
    const [without, late] = [await at(0), await at(400)];
    expect((late.rounds[0]?.endedAtMs ?? 0) - (without.rounds[0]?.endedAtMs ?? 0)).toBeCloseTo(400, 3);
    expect(late.totalMs - without.totalMs).toBeCloseTo(400, 3);
    expect(late.downtimeMs).toBeCloseTo(without.downtimeMs, 3);
  });

  test('a device that saves, sends and loads its state', async () => {
    const device = {
      id: 'gpu',
      bytes: 200e6,
      saveMs: 10,
      saveBytesPerSecond: 2e9,
      loadMs: 20,
      loadBytesPerSecond: 500e6,
    };
    const { deviceMs, loadMs } = await terms({ devices: [device] });
    // Saving 100 ms and sending 200 ms overlap.
    expect(deviceMs.actualMs).toBeGreaterThan(200);
    expect(deviceMs.actualMs).toBeLessThan(320);
    expect(loadMs.actualMs).toBeCloseTo(420, -1);
  });

  test('only the rest of a state that was sent while the guest ran', async () => {
    const device = { id: 'gpu', bytes: 1e6, precopyBytes: 500e6, dirtyBytesPerSecond: 10e6, loadBytesPerSecond: 5e9 };
    const { deviceMs, loadMs } = await terms({ devices: [device] });
    expect(deviceMs.actualMs).toBeLessThan(30);
    expect(loadMs.actualMs).toBeLessThan(10);
  });
});
