import { closeSync, existsSync, openSync, unlinkSync } from 'node:fs';
import { dirname } from 'node:path';
import { type PresetName, suggestion } from '@godwit/core';
import { zstdAvailable } from '@godwit/transport';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { MAXIMUM_VCPUS, PAGE_SIZE } from '../guest/layout.js';
import { MAX_MEMORY_BYTES, MIN_MEMORY_BYTES } from '../machine/memory-map.js';
import type { EncodingName } from '../vmm/encodings.js';
import { workingSetProblem } from '../vmm/guest-spec.js';
import { POLICY_NAMES } from '../vmm/policies.js';
import { encodings, oneOfNames } from './named-values.js';
import { formatBytes, parseBytes } from './quantity.js';
import { parseTransport, TRANSPORT_KINDS, type TransportChoice, takesWorkers } from './transport-choice.js';

export interface DemoOptions {
  readonly memoryBytes: number;
  readonly vcpus: number;
  readonly dirtyPagesPerSecond: number;
  readonly workingSetBytes: number;
  readonly order: 'sequential' | 'random';
  readonly wholePages: boolean;
  readonly downtimeLimitMs: number;
  /** Bytes per second; 0 is no limit. */
  readonly maxBandwidth: number;
  /** Number of rounds after which to switch over, whatever the downtime, without a `policy`. */
  readonly maxRounds: number;
  readonly policy: PresetName | undefined;
  /**
   * Whether the guest runs at the destination after one round, or when the policy decides so, and the rest of its memory follows.
   */
  readonly postcopy: boolean;
  /** Bytes per second while pages follow; 0 is no limit. */
  readonly postcopyBandwidth: number;
  /** The time budget of the whole migration. */
  readonly timeBudgetMs: number | undefined;
  readonly transport: TransportChoice;
  /** Streams for pages beside the control stream. */
  readonly pageChannels: number | 'auto';
  /** Whether each page channel has its own thread, at both hosts. */
  readonly workers: boolean;
  readonly encodings: readonly EncodingName[];
  readonly kvm: boolean;
  /** Whether the writes of vCPUs are logged in KVM's dirty rings, at both hosts. */
  readonly dirtyRing: boolean;
  /** Whether to compare the RAM of both sides; false by post-copy, in which there is nothing to compare before the guest runs. */
  readonly verify: boolean;
  readonly output: 'auto' | 'json' | 'plain';
  readonly color: boolean;
  readonly settleMs: number;
  /** Shortest time that the guest runs before it is migrated; it also writes its working set once. */
  readonly warmUpMs: number;
  /** 0: one migration. N: N migrations there and N back. */
  readonly roundTrips: number;
  /** The new file into which the migration is recorded. */
  readonly record: string | undefined;
  /** Port of the live page on this host, 0 for one that is free; undefined: no page. */
  readonly page: number | undefined;
  /** Name of a dirty tracker that must report nothing: for tests that must fail. */
  readonly blindTracker: string | undefined;
}

export type ParsedArguments =
  | { readonly kind: 'run'; readonly options: DemoOptions }
  /** `--help`, or a mistake: what to print and the exit status. */
  | { readonly kind: 'exit'; readonly status: number; readonly text: string };

const DEFAULT_WORKING_SET = 192 * 2 ** 20;
const ROUND_TRIP_WORKING_SET = 16 * 2 ** 20;

/** Reads the command line (without `node` and the script). Never exits and never prints. */
export function parseArguments(argv: readonly string[]): ParsedArguments {
  let printed = '';
  const command = new Command('npm run demo --')
    .description(
      'Boots a guest that writes memory on every vCPU, moves it to a second process while it runs, and checks that\n' +
        'nothing was lost: every page of both sides compared before the handover, then by the guest itself.',
    )
    .addOption(
      new Option('--memory <size>', 'guest memory, such as 512M or 6G')
        .argParser(bytes('--memory', MIN_MEMORY_BYTES, MAX_MEMORY_BYTES))
        .default(512 * 2 ** 20, '512M'),
    )
    .option('--vcpus <n>', `virtual CPUs, 1 to ${MAXIMUM_VCPUS}`, integer('--vcpus', 1, MAXIMUM_VCPUS), 2)
    .option(
      '--dirty-rate <pages/s>',
      'page writes per second over all vCPUs, 0 = flat out',
      integer('--dirty-rate', 0, 2 ** 31 - 1),
      20_000,
    )
    .option('--working-set <size>', 'memory that the guest writes', bytes('--working-set', PAGE_SIZE))
    .addOption(
      oneOfNames(new Option('--order <order>', 'in which the guest writes its pages').default('sequential'), [
        'sequential',
        'random',
      ]),
    )
    .option('--whole-pages', 'the guest writes every byte of a page, not only the stamps in it', false)
    .option(
      '--downtime-limit <ms>',
      'longest pause of the guest to aim for',
      number('--downtime-limit', 1, 3_600_000),
      100,
    )
    .option(
      '--max-bandwidth <bytes/s>',
      'limit for the pre-copy, such as 100M or 1G; 0 = none',
      bytes('--max-bandwidth', 0),
    )
    .option(
      '--max-rounds <n>',
      'switch over after so many rounds, whatever the downtime',
      integer('--max-rounds', 1, 10_000),
      50,
    )
    .addOption(
      oneOfNames(
        new Option(
          '--policy <name>',
          'when to switch over, to hold the guest back and to give up, in place of --max-rounds',
        ),
        POLICY_NAMES,
      ).conflicts('maxRounds'),
    )
    .addOption(
      new Option(
        '--postcopy',
        'after one round, or when the policy says so, the guest runs at the destination, and the rest of its memory follows',
      ).conflicts('maxRounds'),
    )
    .option(
      '--postcopy-bandwidth <bytes/s>',
      'limit while it follows; pages that the guest waits for are not counted; 0 = none (default: 32M)',
      bytes('--postcopy-bandwidth', 0),
    )
    .option(
      '--time-budget <ms>',
      'time for a whole migration, which the policy goes by',
      number('--time-budget', 1, 86_400_000),
    )
    .addOption(
      new Option(
        '--transport <kind>',
        `between the two processes: ${TRANSPORT_KINDS.join(', ')} (TLS with certificates for this run), or where to listen, as in unix:/tmp/vm.sock`,
      )
        .argParser(transport)
        .default(parseTransport('tcp'), 'tcp'),
    )
    .option(
      '--page-channels <n>',
      'streams for pages beside the control stream, 0 to 64, or auto: as many as suit this host, on threads of their own',
      pageChannels,
      'auto',
    )
    .option('--workers', 'each page channel on a thread of its own, at both hosts', false)
    .option(
      '--encodings <names>',
      'how pages may be made smaller: delta, lz4, zstd, or several, as in delta,lz4',
      encodings,
      [],
    )
    .option('--no-kvm', 'a worker thread that writes real memory, in place of a KVM guest')
    .option('--dirty-ring', "log what the guest writes in KVM's dirty rings, in place of its dirty log", false)
    .option('--no-verify', 'do not compare the RAM of both sides; the demo then ends unverified, with status 1')
    .option('--settle <s>', 'how long the guest checks itself at the destination', number('--settle', 0, 3600), 3)
    .option('--warm-up <ms>', 'least time to run before migrating', number('--warm-up', 0, 3_600_000), 1000)
    .option('--round-trips <n>', 'move the same guest there and back n times', integer('--round-trips', 1, 1_000_000))
    .option('--record <file>', 'record every frame into a new file, for `npm run inspect -- <file>`')
    .option('--page [port]', 'a live page of the migration, on this host: at this port, or one that is free', page)
    .option('--json', 'print events as JSON lines', false)
    .option('--plain', 'print lines of text, even on a terminal', false)
    .option('--no-color', 'a picture without colours; NO_COLOR in the environment does the same')
    .addOption(new Option('--blind-tracker <name>').hideHelp())
    .allowExcessArguments(false)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => {
        printed += text;
      },
      writeErr: (text) => {
        printed += text;
      },
    });
  try {
    command.parse(argv, { from: 'user' });
    return { kind: 'run', options: demoOptions(command) };
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return { kind: 'exit', status: error.exitCode === 0 ? 0 : 2, text: printed };
  }
}

function demoOptions(command: Command): DemoOptions {
  const given = command.opts<{
    memory: number;
    vcpus: number;
    dirtyRate: number;
    workingSet?: number;
    order: DemoOptions['order'];
    wholePages: boolean;
    downtimeLimit: number;
    maxBandwidth?: number;
    maxRounds: number;
    policy?: PresetName;
    postcopy?: boolean;
    postcopyBandwidth?: number;
    dirtyRing: boolean;
    timeBudget?: number;
    transport: TransportChoice;
    color: boolean;
    pageChannels: number | 'auto';
    workers: boolean;
    encodings: readonly EncodingName[];
    kvm: boolean;
    verify: boolean;
    settle: number;
    warmUp: number;
    roundTrips?: number;
    record?: string;
    page?: number | true;
    json: boolean;
    plain: boolean;
    blindTracker?: string;
  }>();
  const roundTrips = given.roundTrips ?? 0;
  const usual = roundTrips > 0 ? ROUND_TRIP_WORKING_SET : DEFAULT_WORKING_SET;
  const workingSet = given.workingSet ?? Math.min(usual, given.memory / 2);
  const problem = workingSetProblem(given.memory, given.vcpus, pageFloor(workingSet));
  if (problem !== undefined) {
    const sizes = `--working-set ${formatBytes(workingSet)} does not fit into --memory ${formatBytes(given.memory)}`;
    command.error(`error: ${sizes}: ${problem}`);
  }
  if (given.json && given.plain) command.error('error: --json and --plain exclude each other');
  if (roundTrips > 0 && !given.verify)
    command.error('error: --round-trips counts defects, so it needs the comparison: leave out --no-verify');
  if (roundTrips > 0 && given.record !== undefined)
    command.error('error: --record takes one migration: leave out --round-trips');
  if (roundTrips > 0 && given.page !== undefined)
    command.error('error: --page shows one migration: leave out --round-trips');
  const { postcopy = false } = given;
  if (given.policy === 'hybrid' && !postcopy)
    command.error('error: --policy hybrid goes on as post-copy: give --postcopy too');
  if (given.postcopyBandwidth !== undefined && !postcopy)
    command.error('error: --postcopy-bandwidth is for --postcopy: give it too');
  if (postcopy && !given.verify)
    command.error('error: with --postcopy nothing is compared before the handover: leave out --no-verify');
  if (postcopy && roundTrips > 0)
    command.error('error: --round-trips compares both sides each time, which --postcopy cannot: leave one of them out');
  if (given.dirtyRing && !given.kvm)
    command.error('error: --dirty-ring logs what vCPUs on KVM write: leave out --no-kvm');
  if (given.workers && given.pageChannels === 0)
    command.error('error: --workers are threads for page channels: give --page-channels too');
  if (given.workers && !takesWorkers(given.transport))
    command.error(
      `error: --workers need plain sockets, and --transport ${given.transport.kind} has none: use tcp or unix`,
    );
  if (given.timeBudget !== undefined && given.policy === undefined)
    command.error(`error: --time-budget is for a policy to go by: give --policy too, such as --policy balanced`);
  const recording = given.record === undefined ? undefined : recordProblem(given.record);
  if (recording !== undefined) command.error(`error: --record ${given.record}: ${recording}`);
  if (given.encodings.includes('zstd') && !zstdAvailable)
    command.error(`error: zstd needs Node.js 22.15 or newer, and this is ${process.versions.node}; lz4 works here`);
  if (given.workers && given.record !== undefined)
    command.error('error: --record sees what crosses the main thread: leave out --workers');
  return {
    memoryBytes: pageFloor(given.memory),
    vcpus: given.vcpus,
    dirtyPagesPerSecond: given.dirtyRate,
    workingSetBytes: pageFloor(workingSet),
    order: given.order,
    wholePages: given.wholePages,
    downtimeLimitMs: given.downtimeLimit,
    // A single migration has a bandwidth limit by default: over loopback the migration of a small guest would be over too soon to
    // watch.
    maxBandwidth: given.maxBandwidth ?? (roundTrips > 0 ? 0 : 128 * 2 ** 20),
    maxRounds: given.maxRounds,
    policy: given.policy,
    postcopy,
    postcopyBandwidth: given.postcopyBandwidth ?? 32 * 2 ** 20,
    timeBudgetMs: given.timeBudget,
    transport: given.transport,
    pageChannels: given.pageChannels,
    // A recording has only frames that pass through the main thread.
    workers:
      given.workers || (given.pageChannels === 'auto' && given.record === undefined && takesWorkers(given.transport)),
    encodings: given.encodings,
    kvm: given.kvm,
    dirtyRing: given.dirtyRing,
    verify: given.verify && !postcopy,
    output: given.json ? 'json' : given.plain ? 'plain' : 'auto',
    color: given.color,
    settleMs: given.settle * 1000,
    warmUpMs: given.warmUp,
    roundTrips,
    record: given.record,
    page: given.page === true ? 0 : given.page,
    blindTracker: given.blindTracker,
  };
}

function transport(text: string): TransportChoice {
  const choice = parseTransport(text);
  if (typeof choice === 'string') throw new InvalidArgumentError(choice.endsWith('?') ? choice : `${choice}.`);
  return choice;
}

/** Why a migration cannot be recorded into a new file of this name: it is made, and removed again. */
function recordProblem(path: string): string | undefined {
  if (existsSync(path)) return 'the file exists already; choose another name or remove it';
  if (!existsSync(dirname(path))) return `there is no folder ${dirname(path)}; make it first`;
  try {
    closeSync(openSync(path, 'wx', 0o600));
    unlinkSync(path);
    return undefined;
  } catch (error) {
    return `${(error as Error).message}; choose another folder`;
  }
}

function pageChannels(text: string): number | 'auto' {
  if (text === 'auto') return text;
  const near = suggestion(text, ['auto']);
  if (near !== '') throw new InvalidArgumentError(`--page-channels wants a number from 0 to 64, or auto${near}`);
  return integer('--page-channels', 0, 64)(text);
}

function page(text: string): number {
  return integer('--page', 0, 65_535)(text);
}

function pageFloor(size: number): number {
  return Math.max(PAGE_SIZE, Math.floor(size / PAGE_SIZE) * PAGE_SIZE);
}

function bytes(name: string, least: number, most = 2 ** 42): (text: string) => number {
  return (text) => {
    const value = parseBytes(text);
    if (value === undefined) throw new InvalidArgumentError(`${name} wants a size such as 512M or 6G.`);
    if (value < least) throw new InvalidArgumentError(`${name} wants at least ${formatBytes(least)}.`);
    if (value > most) throw new InvalidArgumentError(`${name} wants at most ${formatBytes(most)}.`);
    return value;
  };
}

function number(name: string, least: number, most: number): (text: string) => number {
  return (text) => {
    const value = text.trim() === '' ? Number.NaN : Number(text);
    if (value >= least && value <= most) return value;
    throw new InvalidArgumentError(`${name} wants a number from ${least} to ${most}.`);
  };
}

function integer(name: string, least: number, most: number): (text: string) => number {
  const parse = number(name, least, most);
  return (text) => {
    const value = parse(text);
    if (!Number.isInteger(value)) throw new InvalidArgumentError(`${name} wants a whole number.`);
    return value;
  };
}
