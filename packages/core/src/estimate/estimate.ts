import { abortable } from '../abortable.js';
import { checkOptions, nonNegative } from '../argument.js';
import { Claim } from '../claim/claim.js';
import { type Clock, systemClock } from '../clock.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { SentEncodings } from '../encoding/sent-encodings.js';
import { GodwitError, quoted } from '../errors.js';
import type { LinkConnector } from '../link/migration-link.js';
import { checkGuestMemory } from '../memory/check-guest-memory.js';
import type { LinkScenario } from '../simulation/scenario.js';
import { DeviceSender } from '../source/device-sender.js';
import { randomId, resolveOptions } from '../source/options.js';
import { type LinkProbe, probeLink } from '../source/probe-link.js';
import { SourceSession } from '../source/source-session.js';
import { TrackerUnion } from '../tracker/tracker-union.js';
import { describeDevices } from './describe-devices.js';
import { type Estimate, type EstimateSettings, estimateFrom } from './estimate-from.js';
import { type GuestSample, SAMPLE_MS, sampleGuest } from './sample-guest.js';

/**
 * The link of an estimate: a rate in bytes per second; a recorded link, with its latency and its changes; or a connector, whose rate is
 * measured with a few MiB that the destination throws away. The destination answers it as a dry run: it builds the VM and abandons it.
 */
export type EstimatedLink = number | LinkScenario | LinkConnector;

export interface EstimateOptions extends EstimateSettings {
  /** How long the guest is watched, in milliseconds. Default 3,000. */
  readonly sampleMs?: number;
  /** For a connector: the description that `prepare` is given, as in `MigrateOptions`. */
  readonly description?: unknown;
  /** Ends the estimate when it aborts. */
  readonly signal?: AbortSignal;
  /** The clock of every wait and measurement. Default: `systemClock`. */
  readonly clock?: Clock;
}

const ESTIMATE_OPTIONS: Readonly<Record<keyof EstimateOptions, true>> = {
  downtimeLimitMs: true,
  bandwidthLimit: true,
  timeBudgetMs: true,
  policy: true,
  postcopy: true,
  pageChannels: true,
  suggestions: true,
  seed: true,
  sampleMs: true,
  description: true,
  signal: true,
  clock: true,
};

/**
 * Estimates a migration of `vm` over `link` without making it: its duration and downtime, each with an interval, and whether it
 * converges. The call reads the running guest's dirty trackers for `sampleMs`, and simulates migrations of a guest that writes the same
 * way, with the same engine under a virtual clock.
 *
 * The VM is claimed meanwhile. Its guest runs on, slowed only by the dirty log; nothing is read from its memory, and its devices are
 * only asked for their sizes. Rejects with `GODWIT_CLAIMED`, `GODWIT_HANDED_OVER`, `GODWIT_TRACKER_FAILED`, the errors of connecting,
 * `GODWIT_UNSUPPORTED` for a link that cannot be measured, and with the signal's reason.
 *
 * @example
 * const { converges, downtimeMs } = await estimate(vm, 1.25e9, { downtimeLimitMs: 300 });
 * if (!converges || downtimeMs.high > 1000) console.log('rather tonight');
 */
export async function estimate(
  vm: MigratableVm,
  link: EstimatedLink,
  options: EstimateOptions = {},
): Promise<Estimate> {
  checkOptions<EstimateOptions>('estimate', options, ESTIMATE_OPTIONS);
  const { clock = systemClock, signal = new AbortController().signal } = options;
  const sampleMs = nonNegative('sampleMs', options.sampleMs ?? SAMPLE_MS);
  signal.throwIfAborted();
  checkGuestMemory(vm.memory);
  if (vm.trackers.length === 0) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', 'the VM has no dirty tracker: nobody knows what the guest writes');
  }
  const claim = Claim.take(vm, 'outgoing', randomId());
  try {
    const known = isConnector(link) ? await probed(vm, link, options, clock, signal) : scenarioOf(link);
    const sample = await watched(vm, claim, { clock, sampleMs, signal });
    const sizes = await abortable(new DeviceSender(vm.devices).reports.ask(signal), signal);
    return await estimateFrom(sample, describeDevices(vm.devices, sizes), known, options);
  } finally {
    claim.end();
  }
}

function isConnector(link: EstimatedLink): link is LinkConnector {
  return typeof link === 'object' && 'connect' in link;
}

function scenarioOf(link: number | LinkScenario): LinkScenario {
  const scenario = typeof link === 'number' ? { bytesPerSecond: link } : link;
  if (!(scenario.bytesPerSecond > 0) || !Number.isFinite(scenario.bytesPerSecond)) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `the link's rate must be a finite, positive number of bytes per second, got ${quoted(scenario.bytesPerSecond)}`,
    );
  }
  return scenario;
}

/** Makes the scenario of a link from its measured rate and round trip. */
export function measuredLink({ bytesPerSecond, roundTripMs }: LinkProbe): LinkScenario {
  return { bytesPerSecond, latencyMs: roundTripMs / 2 };
}

async function probed(
  vm: MigratableVm,
  connector: LinkConnector,
  { description }: EstimateOptions,
  clock: Clock,
  signal: AbortSignal,
): Promise<LinkScenario> {
  const options = resolveOptions({ description, clock });
  const encodings = new SentEncodings([], true);
  const session = new SourceSession({ vm, connector, options, encodings, postcopy: undefined, emit: () => {} });
  const onAbort = () =>
    session.end.set(GodwitError.wrap(signal.reason, 'GODWIT_CANCELLED', 'the estimate was cancelled'));
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    const { connection, answer } = await session.first('dryRun');
    return measuredLink(await abortable(probeLink(connection, answer, clock), signal));
  } finally {
    signal.removeEventListener('abort', onAbort);
    await session.close(undefined);
  }
}

/** Starts the trackers, watches the guest, and stops them, whatever happens. */
async function watched(
  { memory, trackers }: MigratableVm,
  claim: Claim,
  watching: { readonly clock: Clock; readonly sampleMs: number; readonly signal: AbortSignal },
): Promise<GuestSample> {
  const tracker = new TrackerUnion(trackers, undefined, memory);
  const starting = tracker.start();
  claim.keepUntil(starting, `start() of the dirty tracker "${tracker.name}"`);
  try {
    await abortable(starting, watching.signal);
    return await sampleGuest(memory, tracker, watching);
  } finally {
    const stopping = tracker.stop();
    claim.keepUntil(stopping, `stop() of the dirty tracker "${tracker.name}"`);
    await stopping;
  }
}
