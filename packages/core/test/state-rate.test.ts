import type { MigratableDevice, MigrateOptions } from '@godwit/core';
import { engineParts, FaultyDevice, type MemoryLinkOptions, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { BLOCKS, expectMoved, start } from './toy-migration.js';

const { DeviceSender, DowntimeModel } = engineParts;

/** One device, of which nothing is known but its bytes. */
const ONE = { count: 1, bytes: 300 * 1e6, expectedSaveMs: 0, expecting: 0 };

const MB = 1e6;

interface BallastOptions {
  readonly bytes: number;
  readonly precopyBytes?: number;
  /** Milliseconds that it takes to make a megabyte. */
  readonly makeMs?: number;
}

/** A device with much state, of which some is yielded while the guest runs. */
function ballast(clock: VirtualClock, { bytes, precopyBytes, makeMs = 0 }: BallastOptions): MigratableDevice {
  let left = bytes;
  async function* until(rest: number) {
    while (left > rest) {
      await clock.sleep(makeMs);
      left -= MB;
      yield new Uint8Array(MB);
    }
  }
  return {
    id: 'gpu',
    version: 1,
    stateBytes: () => left,
    save: () => until(0),
    async load(state) {
      for await (const _ of state);
    },
    ...(precopyBytes === undefined ? {} : { precopy: () => until(bytes - precopyBytes) }),
  };
}

async function move(options: BallastOptions, link: MemoryLinkOptions, migrate: MigrateOptions = {}) {
  const clock = new VirtualClock();
  // Its RAM is empty: no round loads the link.
  const source = new ToyVm(BLOCKS, { devices: [ballast(clock, options)] });
  const destination = new ToyVm(BLOCKS, { running: false, devices: [ballast(clock, options)] });
  const toy = start({ clock, source, destination, link: { latencyMs: 1, ...link }, migrate });
  expectMoved(toy, await toy.settled());
  return { toy, summary: await toy.migration.result };
}

describe('the time of device state, on a link that no page has loaded', () => {
  test.each([1, 10, 1000])('is predicted over %i MB/s, and forced', async (rate) => {
    const { summary } = await move({ bytes: 30 * MB }, { bytesPerSecond: rate * MB }, { force: true });
    const { actualMs, predictedMs, rangeMs } = summary.downtime.deviceMs;
    expect(actualMs).toBeGreaterThan(30_000 / rate - 20);
    expect(Math.abs(predictedMs / actualMs - 1)).toBeLessThan(0.2);
    expect(rangeMs[0]).toBeLessThanOrEqual(actualMs);
    expect(rangeMs[1]).toBeGreaterThanOrEqual(actualMs);
  });

  test('keeps the guest running when it exceeds the limit', async () => {
    const clock = new VirtualClock();
    const source = new ToyVm(BLOCKS, { devices: [ballast(clock, { bytes: 30 * MB })] });
    const destination = new ToyVm(BLOCKS, { running: false, devices: [ballast(clock, { bytes: 30 * MB })] });
    const toy = start({
      clock,
      source,
      destination,
      link: { bytesPerSecond: 10 * MB },
      migrate: { downtimeLimitMs: 300 },
    });
    const unreachable = new Promise((resolve) => {
      toy.migration.subscribe({
        next: (event) => {
          if (event.type === 'limit-unreachable') resolve(event);
        },
        error: () => {},
      });
    });
    await expect(unreachable).resolves.toMatchObject({ type: 'limit-unreachable' });
    expect(source.pauses).toBe(0);
    toy.migration.cancel();
    await toy.settled();
  });

  test('of a device that does not say how much it has, is named in the end', async () => {
    const clock = new VirtualClock();
    const { stateBytes: _, ...silent } = ballast(clock, { bytes: 30 * MB });
    const source = new ToyVm(BLOCKS, { devices: [silent] });
    const destination = new ToyVm(BLOCKS, { running: false, devices: [ballast(clock, { bytes: 30 * MB })] });
    const toy = start({ clock, source, destination, link: { bytesPerSecond: MB } });
    const { sent } = await toy.settled();
    expect(sent).toMatchObject({ reason: { code: 'GODWIT_NOT_CONVERGING' } });
    const { message } = (sent as PromiseRejectedResult).reason as Error;
    expect(message).toMatch(/the last stop-and-copy was given up: .* under way: saving and sending device state/);
    expect(message).toMatch(/; no round had a page to send; at best \d+ ms/);
    expect(source.running).toBe(true);
  });

  test('is learned from the state that the device yields while the guest runs', async () => {
    const options = { bytes: 30 * MB, precopyBytes: 28 * MB };
    const { summary } = await move(options, { bytesPerSecond: 10 * MB }, { downtimeLimitMs: 500 });
    const { actualMs, predictedMs, rangeMs } = summary.downtime.deviceMs;
    expect(actualMs).toBeGreaterThan(190);
    expect(Math.abs(predictedMs / actualMs - 1)).toBeLessThan(0.3);
    expect(rangeMs[1]).toBeGreaterThanOrEqual(actualMs);
    expect(summary.rounds.at(-1)?.linkBytesPerSecond).toBeGreaterThan(8 * MB);
  });

  test('but not from a device that is slower than the link', async () => {
    const options = { bytes: 30 * MB, precopyBytes: 28 * MB, makeMs: 50 };
    const { summary } = await move(options, { bytesPerSecond: 1000 * MB }, { downtimeLimitMs: 500 });
    // It makes 20 MB a second.
    expect(summary.rounds.at(-1)?.linkBytesPerSecond).toBeGreaterThan(500 * MB);
  });

  test('under a bandwidth limit a probe is no more than the limit lets pass at once', async () => {
    const options = { bytes: 30 * MB };
    const { toy, summary } = await move(
      options,
      { bytesPerSecond: 100 * MB },
      { bandwidthLimit: MB, downtimeLimitMs: 1000 },
    );
    expect(summary.rounds[0]?.wireBytes).toBeLessThan(300 * 1024);
    expect(Math.abs(summary.downtime.deviceMs.predictedMs / summary.downtime.deviceMs.actualMs - 1)).toBeLessThan(0.2);
    expect(toy.source.pauses).toBe(1);
  });
});

describe('while nothing is known of the link', () => {
  test('much state may take long, or not: the interval says so', () => {
    const model = new DowntimeModel();
    model.devices = ONE;
    const { prediction, predictionRange } = model.forecast({ dirtyPages: 0, deviceBytes: 300 * MB });
    expect(prediction.deviceMs).toBeGreaterThan(1000);
    expect(predictionRange.deviceMs[0]).toBeLessThan(100);
    expect(predictionRange.deviceMs[1]).toBeGreaterThan(200_000);
  });

  test('a probe makes it known, for device state and for pages', () => {
    const model = new DowntimeModel();
    model.devices = ONE;
    model.probed(MB, 100);
    expect([model.linkKnown, model.linkBytesPerSecond]).toEqual([true, 10 * MB]);
    const { prediction } = model.forecast({ dirtyPages: 1000, deviceBytes: 10 * MB });
    expect(Math.round(prediction.deviceMs / 100)).toBe(10);
    expect(Math.round(prediction.ramMs / 100)).toBe(4);
  });

  test('state that came more slowly than the link carries it teaches nothing', () => {
    const model = new DowntimeModel();
    model.stateSent(MB, 49, 100);
    expect(model.linkKnown).toBe(false);
    model.stateSent(MB, 50, 100);
    expect(model.linkBytesPerSecond).toBe(10 * MB);
  });
});

describe('devices that are saved and loaded at the same time', () => {
  const waiting = (parallel: boolean, ms: number) =>
    Object.assign(new FaultyDevice(`device-${ms}`), {
      parallel,
      expectedSaveMs: () => ms,
      expectedLoadMs: () => ms * 2,
    });
  const devices = [waiting(true, 100), waiting(true, 300), waiting(false, 50), waiting(true, 20)];

  test('of those the slowest counts, at the source', async () => {
    const { reports } = new DeviceSender(devices);
    await reports.ask(new AbortController().signal);
    expect(reports.outlook).toMatchObject({ expectedSaveMs: 370, expecting: 4 });
  });

  test('and at the destination', async () => {
    const toy = start({
      clock: new VirtualClock(),
      source: new ToyVm(BLOCKS, { devices }),
      destination: new ToyVm(BLOCKS, { running: false, devices }),
      migrate: { downtimeLimitMs: 2000 },
    });
    expectMoved(toy, await toy.settled());
    const { deviceMs, loadMs } = (await toy.migration.result).downtime;
    expect(loadMs.predictedMs).toBeCloseTo(740.8, 1);
    expect(deviceMs.predictedMs).toBeGreaterThanOrEqual(370);
    expect(deviceMs.predictedMs).toBeLessThan(380);
  });
});
