import { afterEach, describe, expect, jest, test } from '@jest/globals';
import { allGone, DemoProcess } from './demo-process.js';
import { forBothGuests } from './guest-kinds.js';

const MIB = 2 ** 20;
const GIB = 2 ** 30;

jest.setTimeout(180_000);

let demo: DemoProcess | undefined;

function start(...options: readonly string[]): DemoProcess {
  demo = new DemoProcess(...options);
  return demo;
}

afterEach(async () => {
  demo?.kill('SIGKILL');
  await demo?.exit;
});

/**
 * Checks that the run was verified and ended by itself, and that the guest's console is one unbroken sequence over both
 * hosts.
 */
async function expectVerified(run: DemoProcess): Promise<void> {
  const { status } = await run.exit;
  run.expectNoFailure();
  expect(run.last).toMatchObject({ event: 'completed', verified: true, defects: 0 });
  expect(Object.keys(run.last).slice(0, 8)).toEqual([
    'event',
    'verified',
    'totalMs',
    'downtimeMs',
    'verifyMs',
    'guestGapMs',
    'rounds',
    'wireBytes',
  ]);
  expect(status).toBe(0);
  expect(run.stderr).toBe('');
  const beats = run.beats();
  expect(new Set(beats.map(({ host }) => host))).toEqual(new Set(['source', 'destination']));
  expect(beats.map(({ count }) => count)).toEqual(beats.map((_, index) => (beats[0]?.count ?? 0) + index));
  expect(await allGone(Object.values(await run.hosts()))).toEqual([]);
}

forBothGuests((options) => {
  test('2 vCPUs and 512 MiB that write 20,000 pages a second move, verified', async () => {
    const run = start(...options);
    await expectVerified(run);
    expect(Number(run.last['guestGapMs'])).toBeGreaterThan(0);
    expect(Number(run.last['pagesCompared'])).toBeGreaterThan(5000);
    const rounds = run.all('round');
    expect(rounds.length).toBe(run.last['rounds']);
    expect(rounds.at(-1)).toMatchObject({ phase: 'stop-and-copy' });
  });

  test('over a UNIX socket, every byte of every page written', async () => {
    await expectVerified(
      start(
        ...options,
        '--transport',
        'unix',
        '--whole-pages',
        '--memory',
        '64M',
        '--working-set',
        '16M',
        '--dirty-rate',
        '2000',
        '--settle',
        '1',
      ),
    );
  });

  test.each(['tls', 'ws', 'wss'])(
    'over %s, where it is encrypted with certificates for this run alone',
    async (kind) => {
      const small = ['--memory', '64M', '--working-set', '16M', '--settle', '0.5'];
      const run = start(...options, '--transport', kind, ...small);
      await expectVerified(run);
      expect(String(run.all('hop')[0]?.['peer'])).toMatch(new RegExp(`^${kind}://127\\.0\\.0\\.1:\\d+`));
    },
  );

  test('6 GiB with memory on both sides of the 4 GiB line', async () => {
    const run = start(...options, '--memory', '6G', '--working-set', '64M', '--max-bandwidth', '0', '--settle', '1');
    await expectVerified(run);
    expect(run.all('guest')[0]).toMatchObject({ spec: { memoryBytes: 6 * GIB } });
  });

  test('8 GiB of which 64 MiB were touched: sparse on the wire and at both sides', async () => {
    const run = start(...options, '--memory', '8G', '--working-set', '60M', '--max-bandwidth', '0', '--settle', '1');
    await expectVerified(run);
    // A page that was never written takes no byte; pages that the guest writes meanwhile are sent again.
    expect(Number(run.last['wireBytes'])).toBeLessThan(GIB);
    for (const { host, guestBytes } of run.all('memory')) {
      expect({ host, sparse: Number(guestBytes) < 80 * MIB }).toEqual({ host, sparse: true });
    }
    expect(run.all('memory').map(({ host }) => host)).toEqual(['source', 'destination']);
  });

  test('there and back, twice, of the same live guest', async () => {
    const run = start(...options, '--round-trips', '2', '--memory', '64M', '--working-set', '16M', '--settle', '1');
    await expectVerified(run);
    expect(run.last).toMatchObject({ migrations: 4 });
    expect(run.all('hop').map(({ from, to }) => `${String(from)} ${String(to)}`)).toEqual([
      'source destination',
      'destination source',
      'source destination',
      'destination source',
    ]);
  });
});

describe('without the comparison', () => {
  test('the run says that it is not verified, and ends with status 1', async () => {
    const run = start('--no-kvm', '--no-verify', '--memory', '64M', '--working-set', '8M', '--settle', '0.5');
    expect((await run.exit).status).toBe(1);
    expect(run.last).toMatchObject({ event: 'completed', verified: false, defects: 0, pagesCompared: 0 });
  });
});

describe('an address that cannot be listened on', () => {
  test('is told before there is a guest', async () => {
    const run = start('--transport', 'unix:/no/such/folder/vm.sock');
    expect((await run.exit).status).toBe(1);
    expect(run.last).toMatchObject({
      event: 'failed',
      code: 'GODWIT_CONNECT_FAILED',
      message: expect.stringContaining('there is no folder /no/such/folder (ENOENT); make it first'),
    });
    expect(run.all('guest')).toEqual([]);
  });
});

describe('bad options', () => {
  test('are told on stderr, with status 2, before anything starts', async () => {
    const run = start('--memory', 'lots');
    expect((await run.exit).status).toBe(2);
    expect(run.stderr).toContain('--memory wants a size such as 512M or 6G');
    expect(run.lines).toEqual([]);
  });
});
