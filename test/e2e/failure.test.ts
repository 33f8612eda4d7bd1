import { afterEach, expect, jest, test } from '@jest/globals';
import { allGone, type DemoLine, DemoProcess } from './demo-process.js';
import { forBothGuests, forKvm } from './guest-kinds.js';

jest.setTimeout(180_000);

let demo: DemoProcess | undefined;

afterEach(async () => {
  demo?.kill('SIGKILL');
  await demo?.exit;
});

/** Options of a migration that is slow enough to be interrupted in the middle. */
const SLOW = ['--memory', '128M', '--working-set', '64M', '--max-bandwidth', '20M', '--downtime-limit', '20'];

/** A demo in the middle of its migration: pages have been sent, and the end is far. */
async function midMigration(options: readonly string[]): Promise<DemoProcess> {
  const run = new DemoProcess(...SLOW, ...options);
  demo = run;
  await run.until(({ event, wireBytes }) => event === 'progress' && Number(wireBytes) > 2 ** 20);
  return run;
}

function expectRunsOnAtSource(run: DemoProcess): void {
  expect(run.all('runs-on')).toEqual([expect.objectContaining({ host: 'source', defects: [] })]);
  expect(Number((run.all('runs-on')[0] as DemoLine)['beats'])).toBeGreaterThanOrEqual(3);
  const beats = run.beats();
  expect(new Set(beats.map(({ host }) => host))).toEqual(new Set(['source']));
  expect(beats.map(({ count }) => count)).toEqual(beats.map((_, index) => (beats[0]?.count ?? 0) + index));
}

forBothGuests((options, kind) => {
  test('Ctrl-C in the middle: the guest runs on at the source, its memory intact', async () => {
    const run = await midMigration(options);
    run.kill('SIGINT');
    expect((await run.exit).status).toBe(130);
    expect(run.all('state').map(({ state }) => state)).toEqual(['setup', 'active', 'cancelling', 'cancelled']);
    expect(run.last).toMatchObject({ event: 'failed', code: 'GODWIT_CANCELLED' });
    expectRunsOnAtSource(run);
    expect(await allGone(Object.values(await run.hosts()))).toEqual([]);
  });

  test('the destination dies in the middle: the guest runs on at the source', async () => {
    const run = await midMigration(options);
    const { source, destination } = await run.hosts();
    process.kill(destination, 'SIGKILL');
    expect((await run.exit).status).toBe(1);
    expect(run.all('host-gone')).toEqual([expect.objectContaining({ host: 'destination' })]);
    expect(run.last).toMatchObject({
      event: 'failed',
      code: 'GODWIT_LINK_LOST',
      message: `destination: the process (pid ${destination}) ended with SIGKILL; the guest was on its way there, and runs on at the source`,
    });
    expectRunsOnAtSource(run);
    expect(await allGone([source, destination])).toEqual([]);
  });

  test('the source dies in the middle: the run fails and nothing is left behind', async () => {
    const run = await midMigration(options);
    const { source, destination } = await run.hosts();
    process.kill(source, 'SIGKILL');
    expect((await run.exit).status).toBe(1);
    expect(run.last).toMatchObject({
      event: 'failed',
      code: 'GODWIT_LINK_LOST',
      message: `source: the process (pid ${source}) ended with SIGKILL; the guest ran there, and is gone with it: the destination was not given it`,
    });
    expect(await allGone([source, destination])).toEqual([]);
  });

  test('the source dies while the guest warms up: that is said at once, and not when the guest has been silent for long', async () => {
    const run = new DemoProcess(...SLOW, ...options, '--warm-up', '600000');
    demo = run;
    await run.until(({ event, beat }) => event === 'console' && beat !== undefined);
    const { source, destination } = await run.hosts();
    process.kill(source, 'SIGKILL');
    expect((await run.exit).status).toBe(1);
    expect(run.last).toMatchObject({
      code: 'GODWIT_LINK_LOST',
      message: expect.stringContaining('the guest ran there, and is gone with it'),
    });
    expect(await allGone([source, destination])).toEqual([]);
  });

  test('after the move, Ctrl-C keeps the figures, and a source that dies changes nothing', async () => {
    const run = new DemoProcess(...options, '--memory', '64M', '--working-set', '16M', '--settle', '600');
    demo = run;
    await run.until(({ event, phase }) => event === 'phase' && phase === 'settling');
    const { source, destination } = await run.hosts();
    process.kill(source, 'SIGKILL');
    await run.until(({ event }) => event === 'host-gone');
    expect(run.all('host-gone')).toEqual([
      expect.objectContaining({ message: expect.stringContaining('the guest had left it before, and runs on') }),
    ]);
    run.kill('SIGINT');
    expect((await run.exit).status).toBe(130);
    const { downtimeMs, totalMs, wireBytes } = run.all('migrated')[0] as DemoLine;
    expect(run.last).toMatchObject({
      event: 'failed',
      code: 'GODWIT_CANCELLED',
      message: expect.stringContaining('the guest had moved, and ran at the destination'),
      figures: { verified: false, migrations: 1, downtimeMs, totalMs, wireBytes, defects: 0 },
    });
    expect(await allGone([source, destination])).toEqual([]);
  });

  test('the controller is killed: both hosts end by themselves', async () => {
    const run = await midMigration(options);
    const hosts = await run.hosts();
    run.kill('SIGKILL');
    await run.exit;
    expect(await allGone(Object.values(hosts))).toEqual([]);
  });

  test('what the VMM itself writes is not tracked: the comparison notices, the guest stays', async () => {
    const run = new DemoProcess(
      ...options,
      '--blind-tracker',
      kind === 'kvm' ? 'mailbox' : 'pagemap',
      '--memory',
      '64M',
      '--working-set',
      '16M',
    );
    demo = run;
    expect((await run.exit).status).toBe(1);
    expect(run.last).toMatchObject({ event: 'failed', code: 'GODWIT_VERIFY_FAILED' });
    expectRunsOnAtSource(run);
  });
});

forKvm(() => {
  test('what the guest writes is not tracked: the comparison notices, the guest stays', async () => {
    const run = new DemoProcess('--blind-tracker', 'kvm', '--memory', '64M', '--working-set', '16M');
    demo = run;
    expect((await run.exit).status).toBe(1);
    expect(run.last).toMatchObject({ event: 'failed', code: 'GODWIT_VERIFY_FAILED' });
    expectRunsOnAtSource(run);
  });
});
