import { readFileSync } from 'node:fs';
import { suggestion } from '@godwit/core';
import {
  type DeviceScenario,
  type LinkChange,
  type Scenario,
  traceFromJsonLines,
  type Workload,
  type WriteRate,
} from '@godwit/core/simulation';
import { ArgumentError } from '../command/argument-error.js';
import { parseOptions } from '../command/parse-options.js';
import { byteRateOf, bytesOf, linkRateOf, millisecondsOf, shareOf, wholeOf, writeRateOf } from './units.js';

export const SIMULATE_USAGE = `Usage: godwit simulate --memory SIZE --link RATE [--dirty-rate RATE] [options]

Simulates a migration with the engine itself, and prints its rounds, whether and when it converges, and what would make it.

  --memory SIZE           RAM of the guest: 512G (GiB)
  --populated SIZE        RAM that has memory behind it; default: all
  --zero SHARE            zero pages among those that the guest does not write: 0.3 or 30%
  --link RATE             25G or 25Gbit (bits per second), 3GB/s
  --latency TIME          from one end to the other; default 0.1 ms
  --jitter TIME           added to each latency at random, up to this much
  --channels N            page channels; default 1
  --channel-rate RATE     most that one channel is able to carry
  --link-changes LIST     TIME=RATE,...: 10s=10G,40s=25G
  --link-cuts LIST        TIME+TIME,...: 10s+2s cuts the link after 10 s, for 2 s
  --dirty-rate RATE       what the guest writes: 2G (GiB/s), 2GB/s, 500000p (pages per second)
  --working-set SIZE      where it writes; default: everywhere
  --workload KIND         uniform (default), hot (90 % of the writes to a tenth of the working set), sweep,
                          phases (10 s idle, 10 s busy), bursts (one second in ten), trace:FILE (JSON lines with
                          "ms", "firstPage", "count")
  --device SIZE           adds a device with so much state; may be given again
  --save-rate RATE        how fast devices save their state, in bytes per second; default: at once
  --load-rate RATE        how fast devices load it
  --delta SHARE           pages sent again that go as deltas of a quarter of their size
  --compression RATIO     bytes of a page that is sent whole, as a share: 0.4
  --downtime-limit TIME   default 300 ms
  --bandwidth-limit RATE  most bytes per second while the guest runs: 1G (GiB/s)
  --time-budget TIME      time for the whole migration, for policies that go by one
  --postcopy              the guest may run at the destination before its memory is there: for the policy hybrid, and where others
                          come to their end
  --policy LIST           names, or modules that export a policy by default; several are compared
  --seed N                default 1
  --granularity SIZE      bytes of a page of the simulation; default: by the size of the guest
  --stop-after TIME       simulated time after which the migration counts as one that does not end
  --json                  the whole result as JSON: one object, or an array for several policies
  --plot FILE.svg         draws what is owed, the throttle, rounds and pauses

Exit status: 0 it converges (with several policies: with each), 1 it does not, 2 the arguments are wrong.
`;

export const SIMULATE_OPTIONS = {
  memory: { type: 'string' },
  populated: { type: 'string' },
  zero: { type: 'string' },
  link: { type: 'string' },
  latency: { type: 'string' },
  jitter: { type: 'string' },
  channels: { type: 'string' },
  'channel-rate': { type: 'string' },
  'link-changes': { type: 'string' },
  'link-cuts': { type: 'string' },
  'dirty-rate': { type: 'string' },
  'working-set': { type: 'string' },
  workload: { type: 'string', default: 'uniform' },
  device: { type: 'string', multiple: true },
  'save-rate': { type: 'string' },
  'load-rate': { type: 'string' },
  delta: { type: 'string' },
  compression: { type: 'string' },
  'downtime-limit': { type: 'string', default: '300' },
  'bandwidth-limit': { type: 'string' },
  'time-budget': { type: 'string' },
  postcopy: { type: 'boolean', default: false },
  policy: { type: 'string' },
  seed: { type: 'string', default: '1' },
  granularity: { type: 'string' },
  'stop-after': { type: 'string' },
  json: { type: 'boolean', default: false },
  plot: { type: 'string' },
  help: { type: 'boolean', short: 'h', default: false },
} as const;

/** The request to `godwit simulate`. */
export interface SimulateRequest {
  readonly scenario: Scenario;
  readonly options: {
    readonly seed: number;
    readonly downtimeLimitMs: number;
    readonly bandwidthLimit?: number;
    readonly timeBudgetMs?: number;
    readonly postcopy: boolean;
    readonly granularity?: number;
    readonly stopAfterMs?: number;
  };
  /** The list of policies as the user gave it; `undefined` for the engine's default policy. */
  readonly policies: string | undefined;
  readonly json: boolean;
  readonly plot: string | undefined;
}

type Values = ReturnType<typeof parse>['values'];

/** Reads the arguments after `simulate`; `undefined` when help was asked for. Throws `ArgumentError`, which names the argument. */
export function simulateRequest(argv: readonly string[]): SimulateRequest | undefined {
  const { values, positionals } = parse(argv);
  if (values.help) return undefined;
  if (positionals.length > 0) throw new ArgumentError(`simulate has options only, got "${positionals.join(' ')}"`);
  if (values.plot !== undefined && !values.plot.endsWith('.svg')) {
    throw new ArgumentError(`--plot draws SVG: the file must end with .svg, got "${values.plot}"`);
  }
  return {
    scenario: scenarioOf(values),
    options: {
      seed: wholeOf('seed', values.seed, 0),
      downtimeLimitMs: millisecondsOf('downtime-limit', values['downtime-limit']),
      ...given('bandwidthLimit', values['bandwidth-limit'], (text) => byteRateOf('bandwidth-limit', text)),
      ...given('timeBudgetMs', values['time-budget'], (text) => millisecondsOf('time-budget', text)),
      postcopy: values.postcopy,
      ...given('granularity', values.granularity, (text) => bytesOf('granularity', text)),
      ...given('stopAfterMs', values['stop-after'], (text) => millisecondsOf('stop-after', text)),
    },
    policies: values.policy,
    json: values.json,
    plot: values.plot,
  };
}

function scenarioOf(values: Values): Scenario {
  const memory = required('memory', values.memory);
  const link = required('link', values.link);
  return {
    memory: {
      bytes: bytesOf('memory', memory),
      ...given('populatedBytes', values.populated, (text) => bytesOf('populated', text)),
      ...given('zeroShare', values.zero, (text) => shareOf('zero', text)),
    },
    workload: workloadOf(values),
    link: {
      bytesPerSecond: linkRateOf('link', link),
      ...given('latencyMs', values.latency, (text) => millisecondsOf('latency', text)),
      ...given('jitterMs', values.jitter, (text) => millisecondsOf('jitter', text)),
      ...given('channels', values.channels, (text) => wholeOf('channels', text, 1)),
      ...given('channelBytesPerSecond', values['channel-rate'], (text) => linkRateOf('channel-rate', text)),
      ...given('changes', values['link-changes'], changesOf),
      ...given('cuts', values['link-cuts'], cutsOf),
    },
    ...given('devices', values.device, (sizes) => devicesOf(sizes, values)),
    encoding: {
      ...given('deltaShare', values.delta, (text) => shareOf('delta', text)),
      ...given('compressedRatio', values.compression, (text) => shareOf('compression', text)),
    },
  };
}

const WORKLOADS = ['uniform', 'hot', 'sweep', 'phases', 'bursts'];

function workloadOf(values: Values): Workload {
  const { workload: kind } = values;
  if (kind.startsWith('trace:')) return traceOf(kind.slice('trace:'.length));
  const text = values['dirty-rate'];
  const workingSet = values['working-set'];
  if (text === undefined) {
    if (kind !== 'uniform' || workingSet !== undefined) throw new ArgumentError('--dirty-rate is missing');
    return { kind: 'idle' };
  }
  const rate: WriteRate = writeRateOf('dirty-rate', text);
  const region = workingSet === undefined ? {} : { bytes: bytesOf('working-set', workingSet) };
  const busy: Workload = { kind: 'uniform', rate, ...region };
  switch (kind) {
    case 'uniform':
      return busy;
    case 'hot':
      return { kind: 'hot', rate, ...region };
    case 'sweep':
      return { kind: 'sweep', rate, ...region };
    case 'phases':
      return {
        kind: 'phases',
        repeat: true,
        phases: [
          { lastMs: 10_000, workload: { kind: 'idle' } },
          { lastMs: 10_000, workload: busy },
        ],
      };
    case 'bursts':
      return { kind: 'bursts', everyMs: 10_000, lastMs: 1000, burst: busy };
    default:
      throw new ArgumentError(
        `--workload must be ${WORKLOADS.join(', ')} or trace:FILE, got "${kind}"${suggestion(kind, WORKLOADS)}`,
      );
  }
}

function traceOf(file: string): Workload {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new ArgumentError(`the trace ${file} cannot be read: ${(error as Error).message}`);
  }
  return { kind: 'trace', writes: [...traceFromJsonLines(text.split('\n'))] };
}

function devicesOf(sizes: readonly string[], values: Values): readonly DeviceScenario[] {
  const rates = {
    ...given('saveBytesPerSecond', values['save-rate'], (text) => byteRateOf('save-rate', text)),
    ...given('loadBytesPerSecond', values['load-rate'], (text) => byteRateOf('load-rate', text)),
  };
  return sizes.map((size, index) => ({ id: `device${index}`, bytes: bytesOf('device', size), ...rates }));
}

function changesOf(list: string): readonly LinkChange[] {
  return list.split(',').map((one) => {
    const [at, rate] = one.split('=');
    if (at === undefined || rate === undefined) {
      throw new ArgumentError(`--link-changes needs TIME=RATE,... such as 10s=10G,40s=25G, got "${list}"`);
    }
    return { atMs: millisecondsOf('link-changes', at), bytesPerSecond: linkRateOf('link-changes', rate) };
  });
}

function cutsOf(list: string): readonly { readonly atMs: number; readonly lastMs: number }[] {
  return list.split(',').map((one) => {
    const [at, last] = one.split('+');
    if (at === undefined || last === undefined) {
      throw new ArgumentError(`--link-cuts needs TIME+TIME,... such as 10s+2s, got "${list}"`);
    }
    return { atMs: millisecondsOf('link-cuts', at), lastMs: millisecondsOf('link-cuts', last) };
  });
}

function parse(argv: readonly string[]) {
  return parseOptions('simulate', argv, SIMULATE_OPTIONS);
}

function required(name: string, value: string | undefined): string {
  if (value !== undefined) return value;
  throw new ArgumentError(`--${name} is missing: for example --memory 512G --link 25G`);
}

/** An object with the property `name` and the result of `read` for `value`; an empty object if there is no value. */
function given<Name extends string, Value, Result>(
  name: Name,
  value: Value | undefined,
  read: (value: Value) => Result,
): { readonly [N in Name]?: Result } {
  return value === undefined ? {} : ({ [name]: read(value) } as { readonly [N in Name]: Result });
}
