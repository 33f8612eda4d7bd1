import { Command, InvalidArgumentError } from 'commander';
import { type BackgroundOptions, backgroundBenchmark } from './background/background.js';
import { bitmapBenchmark } from './bitmap/bitmap.js';
import { bulkBenchmark } from './bulk/bulk.js';
import { channelsBenchmark } from './channels/channels.js';
import { type DevicesOptions, devicesBenchmark } from './devices/devices.js';
import { dirtyLogBenchmark } from './dirty-log/dirty-log.js';
import { encodingsBenchmark } from './encodings/encodings.js';
import { type EstimateOptions, estimateBenchmark } from './estimate/estimates.js';
import { oneOf } from './one-of.js';
import { type PredictionOptions, predictionBenchmark } from './prediction/prediction.js';
import { type ProfileOptions, profile } from './profile/profile.js';
import { CASE_NAMES, type CaseName } from './qemu/cases.js';
import { type JudgeOptions, judge } from './qemu/command.js';
import { printReport, type Report } from './report.js';
import { type RestoreOptions, restoreBenchmark } from './restore/restore.js';
import { vfioHarvestBenchmark } from './vfio/harvest.js';
import { type WorkingSetOptions, workingSetBenchmark } from './working-set/working-set.js';
import { zeroCopyBenchmark } from './zero-copy/zero-copy.js';

/**
 * `npm run bench -- NAME [--json]`: every benchmark compares two things in one run and prints the ratio. With --short it runs once, on
 * little memory and in seconds, as a smoke test, whose figures have no meaning.
 */
const program = new Command('bench')
  .description('Godwit against the limits of this machine, as ratios measured in one run')
  .showHelpAfterError();

function benchmark(
  name: string,
  description: string,
  run: (options: { size: number; runs: number }) => Promise<Report>,
  size: number,
  short: number,
) {
  program
    .command(name)
    .description(description)
    .option('--size <MiB>', `guest memory in MiB (default: ${size})`, atLeastOne)
    .option('--runs <n>', 'pairs to measure (default: 5)', atLeastOne)
    .option('--short', `one pair on ${short} MiB: to see that it runs`, false)
    .option('--json', 'one JSON object instead of a table', false)
    .action(async (options: { size?: number; runs?: number; short: boolean; json: boolean }) => {
      const usual = options.short ? { size: short, runs: 1 } : { size, runs: 5 };
      const report = await run({ size: options.size ?? usual.size, runs: options.runs ?? usual.runs });
      const notes = options.short ? [...report.notes, 'the short form: nothing to go by'] : report.notes;
      printReport({ ...report, notes }, options.json);
    });
}

benchmark(
  'bulk',
  'random RAM over loopback TCP, beside a raw send/recv loop',
  ({ size, runs }) => bulkBenchmark({ byteLength: size * 2 ** 20, runs }),
  2048,
  256,
);
benchmark(
  'channels',
  'random RAM on page channels, on worker threads and over TLS, beside raw loops',
  ({ size, runs }) => channelsBenchmark({ byteLength: size * 2 ** 20, runs }),
  2048,
  256,
);
benchmark(
  'zero-copy',
  "a source's memory by send, which copies it, and by vmsplice and splice, which do not: raw loops",
  ({ size, runs }) => zeroCopyBenchmark({ byteLength: size * 2 ** 20, runs }),
  2048,
  256,
);
benchmark(
  'bitmap',
  'harvest and walk of a dirty bitmap, 1 % dirty',
  ({ size, runs }) => bitmapBenchmark({ byteLength: size * 2 ** 20, runs }),
  64 * 1024,
  4 * 1024,
);
benchmark(
  'encodings',
  'a guest that rewrites a few bytes a page, raw and encoded, over 1 Gbit/s and over loopback',
  ({ size, runs }) => encodingsBenchmark({ byteLength: size * 2 ** 20, runs }),
  256,
  64,
);

benchmark(
  'dirty-log',
  "harvests of KVM's dirty log and of its dirty rings, against guest size and dirty pages",
  ({ size, runs }) => dirtyLogBenchmark({ byteLength: size * 2 ** 20, runs }),
  32 * 1024,
  4 * 1024,
);

benchmark(
  'vfio',
  "harvest of VFIO's dirty log, beyond the ioctl",
  ({ size, runs }) => vfioHarvestBenchmark({ byteLength: size * 2 ** 20, runs }),
  64 * 1024,
  4 * 1024,
);

program
  .command('devices')
  .description('devices that are large, slow, many, or that wait: downtime, and the memory that each end uses')
  .option('--size <MB>', 'state of the large ones', atLeastOne, 300)
  .option('--link <MB/s>', 'the slow link', atLeastOne, 10)
  .option('--only <text>', 'only cases whose name has this in it', '')
  .option('--json', 'one JSON object instead of a table', false)
  .action((options: DevicesOptions) => devicesBenchmark(options));

program
  .command('prediction')
  .description('the downtime that is predicted, with its interval, and the one that a live KVM guest then sees')
  .option('--times <n>', 'how often each case is run (default: 3, with --short: 1)', atLeastOne)
  .option('--only <text>', 'only cases whose name has this in it', '')
  .option('--short', 'twelve of the cases; fails when fewer than 8 lie inside their interval', false)
  .option('--terms', 'every term of the downtime', false)
  .option('--qemu', 'what QEMU predicts of the sweep guest, and Godwit, below the table', false)
  .option('--simulate', 'the simulator beside each migration: total time and downtime', false)
  .option('--json', 'one JSON object instead of a table', false)
  .action((options: Omit<PredictionOptions, 'times'> & { times?: number }) =>
    predictionBenchmark({ ...options, times: options.times ?? (options.short ? 1 : 3) }),
  );

program
  .command('estimate')
  .description('estimates of live KVM guests, beside their migrations: right about convergence in 19 of 20')
  .option('--short', '4 guests', false)
  .option('--json', 'one JSON object instead of a table', false)
  .action((options: EstimateOptions) => estimateBenchmark(options));

program
  .command('qemu')
  .description(
    'QEMU and Godwit move the same guest on this machine, in turns; QEMU comes from Debian, unpacked in a cache',
  )
  .addArgument(oneOf('[case...]', 'what to do (default: all of it)', CASE_NAMES))
  .option('--rounds <n>', 'how often each does it', atLeastOne, 5)
  .option('--only <text>', 'only who has this name, or has it in the name, such as Godwit or multifd', '')
  .option('--all', "Debian 12's QEMU 7.2 too", false)
  .option('--json', 'one JSON object instead of tables', false)
  .option('--readme', 'write the tables into README.md too', false)
  .option('--prepare', 'only see to it that QEMU is there', false)
  .option('--names', 'only print the names of all that QEMU can be told and asked, as JSON', false)
  .option('--never-rearm', 'with a defect in the dirty log: the check of memory must notice', false)
  .action((cases: CaseName[], options: JudgeOptions) => judge(cases, options));

program
  .command('postcopy')
  .description(
    'the latency of page faults after a switchover by post-copy: QEMU (postcopy-preempt) and Godwit in turns',
  )
  .option('--rounds <n>', 'how often each does it', atLeastOne, 5)
  .option('--only <text>', 'only who has this name, or has it in the name, such as Godwit', '')
  .option('--json', 'one JSON object instead of a table', false)
  .action((options: Pick<JudgeOptions, 'rounds' | 'only' | 'json'>) =>
    judge(['postcopy'], { ...options, all: false, readme: false, prepare: false, neverRearm: false, names: false }),
  );

program
  .command('restore')
  .description('restores of a snapshot with a guest that runs at once, from 64 MiB to 8 GiB')
  .option('--runs <n>', 'restores of each', atLeastOne, 10)
  .option('--only <text>', 'keeps to snapshots that have this in their name')
  .option('--size <MiB>', 'memory of the large guest', atLeastOne, 8192)
  .option('--json', 'one JSON object instead of a table', false)
  .action((options: RestoreOptions) => restoreBenchmark(options));

program
  .command('background')
  .description('snapshots of a guest that writes flat out and runs on: its pause, and its speed meanwhile')
  .option('--runs <n>', 'snapshots of each guest', atLeastOne, 10)
  .option('--size <MiB>', 'memory of the guest', atLeastOne, 512)
  .option('--json', 'one JSON object instead of a table', false)
  .action((options: BackgroundOptions) => backgroundBenchmark(options));

program
  .command('working-set')
  .description('which pages of a live guest are read and written, as a picture; needs Linux 7.3')
  .option('--samples <n>', 'how many', atLeastOne, 40)
  .option('--interval <ms>', 'between two samples', atLeastOne, 250)
  .option('--size <MiB>', 'memory of the guest', atLeastOne, 64)
  .option('--writes <MiB>', 'memory that it writes', atLeastOne, 16)
  .option('--rate <pages/s>', 'pages that it writes a second', atLeastOne, 2000)
  .option('--out <file>', 'where the picture goes', 'working-set.svg')
  .option('--json', 'one JSON object instead of a table', false)
  .action((options: WorkingSetOptions) => workingSetBenchmark(options));

program
  .command('profile')
  .description('a flame graph of every thread of source and destination, while Godwit does a case of `qemu` once')
  .addArgument(oneOf('<case>', 'what to do', CASE_NAMES))
  .option('--way <text>', 'the way to do it: part of its name, such as `main thread`', '')
  .option('--out <folder>', 'where the pictures go', 'profiles')
  .action((name: CaseName, options: ProfileOptions) => profile(name, options));

function atLeastOne(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('It is a whole number from 1.');
  return value;
}

await program.parseAsync();
