import { withinDowntimeLimit } from '../convergence/policies/downtime-limit.js';
import { COARSE, guestPageOf } from './granularity.js';
import { type RunOptions, runScenario, type SimulatedRun } from './run-scenario.js';
import type { LinkScenario, Scenario } from './scenario.js';
import { atRate } from './workload/shape.js';

/** A single change of a scenario with which its migration converges. */
export interface Suggestion {
  readonly change: 'link' | 'bandwidth-limit' | 'downtime-limit' | 'dirty-rate' | 'throttle';
  /** Bytes per second, milliseconds (`downtime-limit`), or a share of time (`throttle`). */
  readonly value: number;
  /** For people: `a link of 45 Gbit/s`. */
  readonly text: string;
  /** The time of the migration with this change, in milliseconds. */
  readonly totalMs: number;
  readonly downtimeMs: number;
}

/** The largest factor up to which a change is searched for. */
const FURTHEST = 64;

/** The search ends when the factor is known to this relative precision. */
const PRECISION = 0.03;

/** Something that can be changed by a factor of 1 (nothing changes) or more. */
interface Knob {
  readonly change: Suggestion['change'];
  readonly at: (factor: number) => { readonly scenario: Scenario; readonly options: RunOptions };
  /** The value after the change. */
  readonly value: (factor: number) => number;
  readonly text: (value: number) => string;
  /** A round number near the value, on the safe side, and the factor that leads to it. */
  readonly rounded: (value: number) => { readonly value: number; readonly factor: number };
}

/**
 * Searches for the smallest single changes that make a migration converge with the plain rule, `withinDowntimeLimit`: a faster link, a
 * longer downtime, a guest that writes less. Each search takes about a dozen simulations with larger pages.
 */
export async function suggest(scenario: Scenario, given: RunOptions): Promise<readonly Suggestion[]> {
  const { throttle: _, granularity: __, ...rest } = given;
  const found: Suggestion[] = [];
  for (const knob of knobs(scenario, { ...rest, policy: withinDowntimeLimit })) {
    const suggestion = await search(knob);
    if (suggestion !== undefined) found.push(suggestion);
  }
  return found;
}

function knobs(scenario: Scenario, options: RunOptions): readonly Knob[] {
  const { link, workload } = scenario;
  const { downtimeLimitMs = 300, bandwidthLimit = 0 } = options;
  const growing = (change: Suggestion['change'], now: number, at: Knob['at'], text: Knob['text'], unit = 1): Knob => ({
    ...{ change, at, text },
    value: (factor) => now * factor,
    rounded: (value) => {
      const round = twoDigits(value / unit, Math.ceil) * unit;
      return { value: round, factor: round / now };
    },
  });
  const slower = (at: Knob['at']): Knob => ({
    change: 'throttle',
    at,
    value: (factor) => 1 - 1 / factor,
    text: (share) => `vCPUs held back for ${Math.round(share * 100)} % of their time`,
    rounded: (value) => {
      const share = Math.ceil(value * 100) / 100;
      return { value: share, factor: 1 / (1 - share) };
    },
  });
  const rate = rateOf(scenario);
  const less = (now: number): Knob => ({
    change: 'dirty-rate',
    at: (factor) => ({ scenario: { ...scenario, workload: atRate(workload, 1 / factor) ?? workload }, options }),
    value: (factor) => now / factor,
    text: (bytes) => `a dirty rate of at most ${bytesPerSecond(bytes)}`,
    rounded: (value) => ({ value: twoDigits(value, Math.floor), factor: now / twoDigits(value, Math.floor) }),
  });
  return [
    growing(
      'link',
      link.bytesPerSecond,
      (factor) => ({ scenario: { ...scenario, link: faster(link, factor) }, options }),
      (bytes) => `a link of ${bitsPerSecond(bytes)}`,
      1 / 8,
    ),
    ...(bandwidthLimit > 0
      ? [
          growing(
            'bandwidth-limit',
            bandwidthLimit,
            (factor) => ({ scenario, options: { ...options, bandwidthLimit: bandwidthLimit * factor } }),
            (bytes) => `a bandwidth limit of ${bytesPerSecond(bytes)}`,
          ),
        ]
      : []),
    growing(
      'downtime-limit',
      downtimeLimitMs,
      (factor) => ({ scenario, options: { ...options, downtimeLimitMs: downtimeLimitMs * factor } }),
      (ms) => `a downtime limit of ${ms} ms`,
    ),
    ...(rate > 0 ? [less(rate)] : []),
    ...(scenario.canThrottle === false
      ? []
      : [slower((factor) => ({ scenario, options: { ...options, throttle: 1 - 1 / factor } }))]),
  ];
}

/** Doubles the factor until the migration converges, and then halves the interval in which the smallest one is. */
async function search(knob: Knob): Promise<Suggestion | undefined> {
  let low = 1;
  let high = 2;
  let run = await converged(knob, high);
  while (run === undefined && high < FURTHEST) {
    low = high;
    high *= 2;
    run = await converged(knob, high);
  }
  if (run === undefined) return undefined;
  while (high / low > 1 + PRECISION) {
    const middle = Math.sqrt(low * high);
    const between = await converged(knob, middle);
    if (between === undefined) low = middle;
    else {
      high = middle;
      run = between;
    }
  }
  const { change, text } = knob;
  const round = knob.rounded(knob.value(high));
  const confirmed = Number.isFinite(round.factor) ? await converged(knob, round.factor) : undefined;
  const value = confirmed === undefined ? knob.value(high) : round.value;
  const { totalMs, downtimeMs } = confirmed ?? run;
  return { change, value, text: text(value), totalMs, downtimeMs: downtimeMs as number };
}

async function converged({ at }: Knob, factor: number): Promise<SimulatedRun | undefined> {
  const { scenario, options } = at(factor);
  const run = await runScenario(scenario, options, COARSE);
  return run.converged ? run : undefined;
}

function faster(link: LinkScenario, factor: number): LinkScenario {
  const times = (bytes: number | undefined) => (bytes === undefined ? {} : { bytesPerSecond: bytes * factor });
  const { bytesPerSecond, channelBytesPerSecond, changes = [] } = link;
  return {
    ...link,
    bytesPerSecond: bytesPerSecond * factor,
    ...(channelBytesPerSecond !== undefined && { channelBytesPerSecond: channelBytesPerSecond * factor }),
    changes: changes.map((change) => ({ ...change, ...times(change.bytesPerSecond) })),
  };
}

/** Bytes that the workload writes in a second; 0 when the workload has no single rate. */
function rateOf(scenario: Scenario): number {
  const { workload } = scenario;
  if (!('rate' in workload)) return 0;
  const { rate } = workload;
  return typeof rate === 'number' ? rate : rate.pagesPerSecond * guestPageOf(scenario);
}

/** Rounds to two significant digits. */
function twoDigits(value: number, round: (value: number) => number): number {
  const unit = Number(`1e${Math.floor(Math.log10(value)) - 1}`);
  // `toPrecision` removes the error of the multiplication, such as 0.30000000000000004.
  return Number((round(value / unit) * unit).toPrecision(2));
}

function bitsPerSecond(bytes: number): string {
  const bits = bytes * 8;
  return bits >= 1e9 ? `${short(bits / 1e9)} Gbit/s` : `${short(bits / 1e6)} Mbit/s`;
}

function bytesPerSecond(bytes: number): string {
  return bytes >= 1e9 ? `${short(bytes / 1e9)} GB/s` : `${short(bytes / 1e6)} MB/s`;
}

function short(value: number): string {
  return String(Number(value.toPrecision(3)));
}
