import { describe, expect, test } from '@jest/globals';
import { type DemoOptions, parseArguments } from '../../dist/demo/options.js';

const MIB = 2 ** 20;

function options(...argv: string[]): DemoOptions {
  const parsed = parseArguments(argv);
  if (parsed.kind !== 'run') throw new Error(parsed.text);
  return parsed.options;
}

function refusal(...argv: string[]): { readonly status: number; readonly text: string } {
  const parsed = parseArguments(argv);
  if (parsed.kind === 'run') throw new Error('expected a refusal');
  return parsed;
}

describe('the demo’s options', () => {
  test('without any, the guest of the README: 512 MiB, 2 vCPUs, 20,000 pages a second, verified', () => {
    expect(options()).toMatchObject({
      memoryBytes: 512 * MIB,
      vcpus: 2,
      dirtyPagesPerSecond: 20_000,
      transport: { kind: 'tcp', listenOn: 'tcp:127.0.0.1:0' },
      color: true,
      kvm: true,
      verify: true,
      output: 'auto',
      settleMs: 3000,
      roundTrips: 0,
    });
  });

  test('a live page: none, at a port that is free, or at this one', () => {
    expect(options().page).toBeUndefined();
    expect(options('--page').page).toBe(0);
    expect(options('--page', '8080').page).toBe(8080);
    expect(refusal('--page', '65536').text).toContain('--page wants a number from 0 to 65535');
    expect(refusal('--page', '--round-trips', '2').text).toContain('--page shows one migration');
  });

  test('sizes, rates and switches', () => {
    expect(
      options(
        ...'--memory 6G --vcpus 4 --dirty-rate 0 --working-set 1.5G --order sequential --whole-pages --downtime-limit 30'.split(
          ' ',
        ),
        ...'--max-bandwidth 1GiB/s --transport unix --no-kvm --no-verify --settle 0.5 --warm-up 0 --record a.godwit --json'.split(
          ' ',
        ),
      ),
    ).toMatchObject({
      memoryBytes: 6 * 2 ** 30,
      vcpus: 4,
      dirtyPagesPerSecond: 0,
      workingSetBytes: 1.5 * 2 ** 30,
      order: 'sequential',
      wholePages: true,
      downtimeLimitMs: 30,
      maxBandwidth: 2 ** 30,
      transport: { kind: 'unix', listenOn: undefined },
      kvm: false,
      verify: false,
      settleMs: 500,
      warmUpMs: 0,
      record: 'a.godwit',
      output: 'json',
    });
  });

  test('a policy goes by its name to the engine, with its budget', () => {
    expect(options()).toMatchObject({ policy: undefined, timeBudgetMs: undefined, maxRounds: 50 });
    expect(options('--policy', 'urgent', '--time-budget', '20000')).toMatchObject({
      policy: 'urgent',
      timeBudgetMs: 20_000,
    });
  });

  test('by post-copy nothing is compared, and its bandwidth is one that can be watched', () => {
    expect(options()).toMatchObject({ postcopy: false, dirtyRing: false, verify: true });
    expect(options('--postcopy')).toMatchObject({
      ...{ postcopy: true, postcopyBandwidth: 32 * MIB, policy: undefined, verify: false },
    });
    const chosen = options(...'--postcopy --policy hybrid --postcopy-bandwidth 0 --dirty-ring'.split(' '));
    expect(chosen).toMatchObject({ postcopyBandwidth: 0, policy: 'hybrid', dirtyRing: true });
  });

  test('every transport with an address that two processes can use, encrypted or not', () => {
    for (const kind of ['tcp', 'tls', 'unix', 'ws', 'wss'] as const) {
      expect(options('--transport', kind).transport.kind).toBe(kind);
    }
    for (const uri of ['tls:[::1]:4444', 'unix:/run/vm.sock', 'wss://localhost:0/vm', 'tcp:0.0.0.0:4444']) {
      expect(options('--transport', uri).transport).toEqual({ kind: uri.split(':')[0], listenOn: uri });
    }
    // Only plain sockets can move to threads of their own.
    expect(['tcp', 'unix', 'tls', 'ws'].map((kind) => options('--transport', kind).workers)).toEqual([
      true,
      true,
      false,
      false,
    ]);
  });

  test('colours can be left out', () => {
    expect(options('--no-color').color).toBe(false);
  });

  test('a small guest gets a working set that fits', () => {
    const small = options('--memory', '16M');
    expect(small.workingSetBytes).toBeLessThan(16 * MIB);
    expect(small.workingSetBytes % 4096).toBe(0);
  });

  test('round trips run at full speed, with a working set of their own', () => {
    expect(options('--round-trips', '100')).toMatchObject({
      roundTrips: 100,
      maxBandwidth: 0,
      workingSetBytes: 16 * MIB,
    });
  });

  test.each([
    [['--memory', 'lots'], /wants a size such as 512M or 6G/],
    [['--memory', '1M'], /at least 16 MiB/],
    [['--vcpus', '9'], /a number from 1 to 8/],
    [['--vcpus', '1.5'], /a whole number/],
    [
      ['--transport', 'pigeon'],
      /--transport wants tcp, tls, unix, ws, wss, or an address such as tls:127\.0\.0\.1:4444/,
    ],
    [['--transport', 'tcp:127.0.0.1:80x'], /expected tcp:host:port, .*got "tcp:127\.0\.0\.1:80x"/],
    [['--transport', `unix:/${'x'.repeat(120)}`], /a UNIX socket path has 1 to 107 bytes/],
    [['--transport', 'exec:cat'], /there is nothing to listen on/],
    [['--transport', 'stdio:'], /for a program that another one starts/],
    [['--transport', 'file:a.snapshot'], /a snapshot, which no second process receives/],
    [
      ['--transport', 'wss', '--workers'],
      /--workers need plain sockets, and --transport wss has none: use tcp or unix/,
    ],
    [['--time-budget', '20000'], /--time-budget is for a policy to go by: give --policy too/],
    [['--record', import.meta.filename], /the file exists already; choose another name or remove it/],
    [
      ['--record', '/proc/a.godwit'],
      /ENOENT: no such file or directory, open '\/proc\/a.godwit'; choose another folder/,
    ],
    [['--record', '/no/such/folder/a.godwit'], /there is no folder \/no\/such\/folder; make it first/],
    [['--working-set', '1G'], /--working-set 1 GiB does not fit into --memory 512 MiB/],
    [['--json', '--plain'], /exclude each other/],
    [['--round-trips', '3', '--no-verify'], /leave out --no-verify/],
    [['--round-trips', '3', '--record', 'a.godwit'], /leave out --round-trips/],
    [['--transport', 'tsl'], /an address such as tls:127\.0\.0\.1:4444; did you mean "tls"\?/],
    [['--transport', 'unx:/run/vm.sock'], /an address such as tls:127\.0\.0\.1:4444; did you mean "unix"\?/],
    [['--policy', 'balancd'], /Allowed choices are gentle, .*; did you mean "balanced"\?/],
    [['--order', 'ramdom'], /Allowed choices are sequential, random; did you mean "random"\?/],
    [['--encodings', 'delta,lz5'], /some of delta, lz4, zstd, with commas between them; did you mean "lz4"\?/],
    [['--encodings', 'gzip'], /some of delta, lz4, zstd, with commas between them\.$/m],
    [['--page-channels', 'atuo'], /--page-channels wants a number from 0 to 64, or auto; did you mean "auto"\?/],
    [['--policy', 'wild'], /Allowed choices are gentle, balanced, urgent, hybrid, qemu, vep248, vep291/],
    [['--policy', 'urgent', '--max-rounds', '3'], /'--policy <name>' cannot be used with option '--max-rounds <n>'/],
    [['--policy', 'hybrid'], /--policy hybrid goes on as post-copy: give --postcopy too/],
    [['--postcopy-bandwidth', '1M'], /--postcopy-bandwidth is for --postcopy: give it too/],
    [['--postcopy', '--no-verify'], /nothing is compared before the handover: leave out --no-verify/],
    [['--postcopy', '--round-trips', '2'], /--round-trips compares both sides each time, which --postcopy cannot/],
    [['--postcopy', '--max-rounds', '2'], /'--postcopy' cannot be used with option '--max-rounds <n>'/],
    [['--postcpy'], /unknown option '--postcpy'\n\(Did you mean --postcopy\?\)/],
    [['--dirty-ring', '--no-kvm'], /--dirty-ring logs what vCPUs on KVM write: leave out --no-kvm/],
    [['--time-budget', '0'], /a number from 1 to 86400000/],
    [['--fast'], /unknown option '--fast'/],
    [['now'], /too many arguments/],
  ])('%j is refused with status 2', (argv, message) => {
    const { status, text } = refusal(...argv);
    expect(status).toBe(2);
    expect(text).toMatch(message);
  });

  test('--help is no error and does not mention what is only for tests', () => {
    const { status, text } = refusal('--help');
    expect(status).toBe(0);
    expect(text).toContain('--dirty-rate');
    expect(text).not.toContain('blind-tracker');
  });
});
