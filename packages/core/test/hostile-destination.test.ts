import { GodwitError, type MigrateOptions, migrate, receive, withinDowntimeLimit } from '@godwit/core';
import { FaultyDevice, memoryLink, ToyVm, VirtualClock } from '@godwit/core/testing';
import { describe, expect, test } from '@jest/globals';
import { type Answers, acknowledging, play, RESUMED, to, WELCOME } from './played-destination.js';
import { BLOCKS, filledVm } from './toy-migration.js';

test('the well-behaved destination is served', async () => {
  const { source, code, migration } = await play(() => undefined, { verify: true });
  expect([code, source.running, migration.state]).toEqual([undefined, false, 'completed']);
});

test('of a flood of pings, those that wait together for an answer are answered once', async () => {
  const pings = Array.from({ length: 2000 }, (_, id) => ({ type: 'ping', id: id + 1 }));
  const { code, heard } = await play(to('pages', ...pings));
  expect(code).toBeUndefined();
  const pongs = heard.flatMap((frame) => (frame.type === 'pong' ? [frame.id] : []));
  expect(pongs.length).toBeLessThan(pings.length);
  expect(pongs.at(-1)).toBe(2000);
});

describe('before go: the guest runs on at the source', () => {
  test.each<readonly [string, Answers, string, MigrateOptions?]>([
    ['a version that was not offered', to('hello', { ...WELCOME, version: 3 }), 'GODWIT_VERSION_MISMATCH'],
    ['an older version', to('hello', { ...WELCOME, version: 1 }), 'GODWIT_VERSION_MISMATCH'],
    ['a version that is no number', to('hello', { ...WELCOME, version: Number.NaN }), 'GODWIT_VERSION_MISMATCH'],
    ['a feature that was not offered', to('hello', { ...WELCOME, features: ['teleport'] }), 'GODWIT_PROTOCOL'],
    ['verify not taken', to('hello', WELCOME), 'GODWIT_UNSUPPORTED', { verify: true }],
    [
      'frames smaller than a page',
      to('hello', { ...WELCOME, maximumPayload: 4095, incarnation: '1'.repeat(32), maximumDeviceState: 2 ** 28 }),
      'GODWIT_LIMIT_EXCEEDED',
    ],
    [
      'frames of no size',
      to('hello', { ...WELCOME, maximumPayload: Number.NaN, incarnation: '1'.repeat(32), maximumDeviceState: 2 ** 28 }),
      'GODWIT_LIMIT_EXCEEDED',
    ],
    ['no answer to hello', to('hello'), 'GODWIT_TIMEOUT'],
    ['another answer to hello', to('hello', { type: 'ready', attempt: 1, loadMs: 0 }), 'GODWIT_PROTOCOL'],
    ['welcome twice', to('hello', WELCOME, WELCOME), 'GODWIT_PROTOCOL'],
    ['too few pages acknowledged', acknowledging(31), 'GODWIT_PROTOCOL'],
    ['too many pages acknowledged', acknowledging(33), 'GODWIT_PROTOCOL'],
    ['no number of pages acknowledged', acknowledging(Number.NaN), 'GODWIT_PROTOCOL'],
    ['another round acknowledged', to('roundEnd', { type: 'roundAck', round: 2, pages: 32 }), 'GODWIT_PROTOCOL'],
    [
      'a round acknowledged twice',
      to('roundEnd', { type: 'roundAck', round: 1, pages: 32 }, { type: 'roundAck', round: 1, pages: 32 }),
      'GODWIT_PROTOCOL',
    ],
    [
      'a round acknowledged before its end',
      to('pages', { type: 'roundAck', round: 1, pages: 32 }, { type: 'roundAck', round: 1, pages: 32 }),
      'GODWIT_PROTOCOL',
    ],
    ['ready before switchover', to('roundEnd', { type: 'ready', attempt: 1, loadMs: 0 }), 'GODWIT_PROTOCOL'],
    ['running before go', to('switchover', { type: 'running', resumeMs: 0, sinceReadyMs: 0 }), 'GODWIT_PROTOCOL'],
    [
      'running right after ready',
      to('switchover', { type: 'ready', attempt: 1, loadMs: 0 }, { type: 'running', resumeMs: 0, sinceReadyMs: 0 }),
      'GODWIT_PROTOCOL',
      { verify: true },
    ],
    ['no ready', to('switchover'), 'GODWIT_TIMEOUT'],
    ['ready of another attempt', to('switchover', { type: 'ready', attempt: 2, loadMs: 0 }), 'GODWIT_PROTOCOL'],
    [
      'prepared of another incarnation',
      to('prepare', { type: 'prepared', incarnation: '2'.repeat(32), attempt: 1, deviceSequences: [] }),
      'GODWIT_PROTOCOL',
    ],
    ['pages owed past the end', to('prepare', { type: 'owed', block: 0, runs: [64, 1] }), 'GODWIT_OUT_OF_RANGE'],
    ['pages owed of no block', to('prepare', { type: 'owed', block: 1, runs: [0, 1] }), 'GODWIT_OUT_OF_RANGE'],
    ['no pages owed', to('prepare', { type: 'owed', block: 0, runs: [] }), 'GODWIT_PROTOCOL'],
    ['state loaded of no device', to('roundEnd', { type: 'loaded', device: 0, sequence: 1 }), 'GODWIT_PROTOCOL'],
    [
      'an answer to "back" that was not said',
      to('roundEnd', { type: 'backAck', attempt: 1, deviceResets: [] }),
      'GODWIT_PROTOCOL',
    ],
    ['how far it is, though it is not asked', to('roundEnd', RESUMED), 'GODWIT_PROTOCOL'],
    ['that it knows of the migration already', to('hello', RESUMED), 'GODWIT_PROTOCOL'],
    [
      'no comparison',
      to('digestsEnd', { type: 'verified', pagesCompared: 0, pagesDifferent: 0, differences: [] }),
      'GODWIT_PROTOCOL',
      { verify: true },
    ],
    [
      'differences',
      to('digestsEnd', { type: 'verified', pagesCompared: 1000, pagesDifferent: 1, differences: [7, 7] }),
      'GODWIT_VERIFY_FAILED',
      { verify: true },
    ],
    [
      'no number of differences',
      to('digestsEnd', { type: 'verified', pagesCompared: 1000, pagesDifferent: Number.NaN, differences: [] }),
      'GODWIT_VERIFY_FAILED',
      { verify: true },
    ],
    ['frames that only a source sends', to('roundEnd', { type: 'go', attempt: 1 }), 'GODWIT_PROTOCOL'],
    [
      'an error',
      to('roundEnd', { type: 'error', code: 'GODWIT_OUT_OF_MEMORY', message: 'no', retry: false }),
      'GODWIT_OUT_OF_MEMORY',
    ],
    [
      'an error with a code of the future',
      to('roundEnd', { type: 'error', code: 'GODWIT_FLUX', message: 'no', retry: false }),
      'GODWIT_INTERNAL',
    ],
  ])('%s', async (_, answers, code, options = {}) => {
    const run = await play(answers, options);
    expect(run.code).toBe(code);
    expect(run.source.running).toBe(true);
    expect(run.heard.some((frame) => frame.type === 'go')).toBe(false);
    expect(run.link.openStreams).toBe(0);
    expect(run.migration.state).toBe('failed');
    expect(run.clock.now()).toBeLessThan(35_000);
  });
});

describe('after a switchover was given up: the guest runs on at the source', () => {
  /** A device whose `save` takes longer than the bound once, and that has yielded one piece while the guest ran. */
  const slow = (): ToyVm => {
    const source = filledVm();
    source.devices = [new FaultyDevice('uart', Uint8Array.of(1))];
    return source;
  };
  let late = 0;
  /** The first `ready` does not come within the bound. */
  const givenUp =
    (answers: Answers): Answers =>
    (frame) => {
      if (frame.type === 'switchover' && frame.attempt === 1) {
        late++;
        return [];
      }
      return answers(frame);
    };

  test.each<readonly [string, Answers, string | undefined]>([
    ['the honest answer', () => undefined, undefined],
    ['another attempt acknowledged', to('back', { type: 'backAck', attempt: 2, deviceResets: [0] }), 'GODWIT_PROTOCOL'],
    ['fewer resets than before', to('back', { type: 'backAck', attempt: 1, deviceResets: [-1] }), 'GODWIT_PROTOCOL'],
    [
      'a late "ready", which counts for nothing',
      to('back', { type: 'ready', attempt: 1, loadMs: 0 }, { type: 'backAck', attempt: 1, deviceResets: [0] }),
      undefined,
    ],
    [
      'a "ready" of the attempt that was given up',
      to('back', { type: 'backAck', attempt: 1, deviceResets: [0] }, { type: 'ready', attempt: 1, loadMs: 0 }),
      'GODWIT_PROTOCOL',
    ],
    ['"running"', to('back', { type: 'running', resumeMs: 0, sinceReadyMs: 0 }), 'GODWIT_PROTOCOL'],
  ])('%s', async (_, answers, code) => {
    late = 0;
    const run = await play(givenUp(answers), { policy: withinDowntimeLimit }, slow());
    expect([run.code, late]).toEqual([code, 1]);
    expect(run.source.resumes).toBe(1);
    expect(run.source.running).toBe(code !== undefined);
    const gone = run.heard.flatMap((frame) => (frame.type === 'go' ? [frame.attempt] : []));
    expect(gone).toEqual(code === undefined ? [2] : []);
    expect(run.link.openStreams).toBe(0);
  });
});

describe('after go: nobody but a person may resume the source', () => {
  test.each<readonly [string, Answers]>([
    ['an error', to('go', { type: 'error', code: 'GODWIT_VM_FAILED', message: 'no', retry: false })],
    ['another answer', to('go', { type: 'ready', attempt: 1, loadMs: 0 })],
    ['no answer', to('go')],
  ])('%s', async (_, answers) => {
    const run = await play(answers);
    expect(run.code).toBe('GODWIT_OWNERSHIP_UNKNOWN');
    expect([run.source.running, run.source.resumes]).toEqual([false, 0]);
    expect(run.link.openStreams).toBe(0);
    expect(run.migration.cancel()).toBe(false);
  });
});

test('a page channel that breaks does not hide the reason that comes on the control stream', async () => {
  const clock = new VirtualClock();
  const link = memoryLink({ clock, capacity: 0 });
  const source = filledVm();
  const migration = migrate(source, link.connector, { clock, pageChannels: 1 });
  const { control, pageChannels } = await link.listener.accept(new AbortController().signal);
  await control.read();
  await control.write(WELCOME);
  await control.read();
  await control.write({ type: 'pong', id: 1 });
  const [channel] = await pageChannels(migration.id, 1, new AbortController().signal);
  channel?.abort(new GodwitError('GODWIT_LINK_LOST', 'broken'));
  await clock.sleep(300);
  await control.write({ type: 'error', code: 'GODWIT_OUT_OF_MEMORY', message: 'no room', retry: false });
  void control.close();
  await expect(migration.result).rejects.toMatchObject({ code: 'GODWIT_OUT_OF_MEMORY', remote: true });
  expect(source.running).toBe(true);
});

test('times that the destination makes up do not spoil the summary', async () => {
  const made = [Number.NaN, -5, 1e9];
  for (const ms of made) {
    const { result } = await play((frame) => {
      if (frame.type === 'switchover') return [{ type: 'ready', attempt: 1, loadMs: ms }];
      return frame.type === 'go' ? [{ type: 'running', resumeMs: ms, sinceReadyMs: 0 }] : undefined;
    });
    if (result?.status !== 'fulfilled') throw new Error('expected success');
    const { downtime, downtimeMs } = result.value;
    const sum = Object.values(downtime).reduce((total, { actualMs }) => total + actualMs, 0);
    expect(sum).toBeCloseTo(downtimeMs);
    for (const { actualMs } of Object.values(downtime)) expect(actualMs).toBeGreaterThanOrEqual(0);
  }
});

test.each([256, 10_000])(
  'frames are no larger than the %i bytes that the destination takes',
  async (maximumPayload) => {
    const sizes = new Map<string, number>();
    const clock = new VirtualClock();
    const link = memoryLink({
      clock,
      fromSource: (frame, payload) => {
        if (payload !== undefined) sizes.set(frame.type, Math.max(payload.byteLength, sizes.get(frame.type) ?? 0));
        return { frame, payload };
      },
      fromDestination: (frame, payload) => ({
        frame: frame.type === 'welcome' ? { ...frame, maximumPayload } : frame,
        payload,
      }),
    });
    const source = new ToyVm(BLOCKS, {
      pageSize: 256,
      devices: [new FaultyDevice('gpu', new Uint8Array(65_000).fill(3))],
    });
    source.write(0, 0, new Uint8Array(60 * 4096).fill(1));
    const loaded = new FaultyDevice('gpu');
    const destination = new ToyVm(BLOCKS, { pageSize: 256, running: false, devices: [loaded] });
    const incoming = receive(link.listener, { prepare: () => destination, clock });
    const summary = await migrate(source, link.connector, { clock, verify: true }).result;
    await incoming.result;
    expect([...sizes.keys()].sort()).toEqual(['device', 'digests', 'pages']);
    for (const bytes of sizes.values()) expect(bytes).toBeLessThanOrEqual(maximumPayload);
    expect(summary.verified).toBe(true);
    expect(loaded.state.byteLength).toBe(65_000);
  },
);
