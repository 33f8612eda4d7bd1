import type { GuestSample, MigrationSummary } from '@godwit/core';
import { type DeviceScenario, type LinkScenario, type Scenario, simulate } from '@godwit/core/simulation';
import type { PredictionCase } from './cases.js';
import { liveSettings } from './settings.js';

/** The simulated times of a live migration. Milliseconds. */
export interface Simulated {
  readonly totalMs: number;
  readonly downtimeMs: number;
}

/**
 * The measurements that the simulator needs: of the guest, those of an estimate; of hosts and link, those that the rounds show, and how
 * long the destination took to make its VM.
 */
export interface Seen {
  readonly sample: GuestSample;
  readonly vcpus: number;
  /** Bytes of state of the machine's own devices. */
  readonly stateBytes: number;
  readonly summary: MigrationSummary;
}

/** Simulates the same migration: the guest as it was watched before the start, and the rates of the link that the rounds have shown. */
export async function simulateLive(chosen: PredictionCase, seen: Seen): Promise<Simulated> {
  const { downtimeLimitMs, bandwidthLimit } = chosen;
  const { policy } = liveSettings(chosen);
  const run = await simulate(scenarioOf(chosen, seen), { downtimeLimitMs, bandwidthLimit, policy, suggestions: false });
  return { totalMs: run.totalMs, downtimeMs: run.downtimeMs ?? Number.NaN };
}

function scenarioOf({ channels, deviceBytes, loadMs, encodings }: PredictionCase, seen: Seen): Scenario {
  const { sample, summary } = seen;
  const { ramBytes, populatedBytes, pageSize, workingSet, harvestMs } = sample;
  const points = workingSet.map(({ windowMs, pages }) => ({ windowMs, bytes: pages * pageSize }));
  return {
    memory: { bytes: ramBytes, populatedBytes, pageSize },
    workload: points.some(({ bytes }) => bytes > 0) ? { kind: 'curve', points } : { kind: 'idle' },
    link: { ...linkOf(summary), channels: Math.max(1, channels) },
    devices: [...ownDevices(seen), ...(deviceBytes > 0 ? [{ id: 'ballast', bytes: deviceBytes, loadMs }] : [])],
    host: {
      prepareMs: prepareMs(summary),
      harvestMs,
      harvestMsPerGiB: 0,
      harvestNsPerPage: 0,
      scanBytesPerSecond: scanRate(summary),
    },
    ...(encodings.length === 0 ? {} : { encoding: encodingOf(summary, pageSize) }),
  };
}

/**
 * The machine's own devices, as one device for each vCPU with an equal part of the state: 0.5 ms to save it, 1 ms to load it, each by a
 * thread of its own.
 */
function ownDevices({ vcpus, stateBytes }: Seen): readonly DeviceScenario[] {
  return Array.from({ length: vcpus }, (_, index) => ({
    id: `vcpu${index}`,
    bytes: Math.ceil(stateBytes / vcpus),
    saveMs: 0.5,
    loadMs: 1,
  }));
}

/** Round 1 fills memory that the destination has to allocate, so that the link has a rate of its own in it. */
function linkOf({ rounds }: MigrationSummary): Pick<LinkScenario, 'bytesPerSecond' | 'changes'> {
  const rates = rounds.map(({ linkBytesPerSecond }) => linkBytesPerSecond);
  const first = rates[0] || 1e9;
  const last = rates.findLast((rate) => rate > 0) ?? first;
  return { bytesPerSecond: first, changes: [{ atMs: rounds[0]?.endedAtMs ?? 0, bytesPerSecond: last }] };
}

/** The time before round 1: nearly all of it is the destination making its VM. */
function prepareMs({ rounds: [first] }: MigrationSummary): number {
  return first === undefined ? 0 : Math.max(0, first.endedAtMs - first.totalMs);
}

/** How fast a thread scans pages and encodes them, in bytes of guest memory per second. */
function scanRate({ rounds }: MigrationSummary): number {
  const [bytes, ms] = rounds.reduce(([b, t], round) => [b + round.rawBytes, t + round.scanMs], [0, 0]);
  return ms > 0 ? (bytes / ms) * 1000 : Number.POSITIVE_INFINITY;
}

/** The encoding of the scenario, derived from the pages that were sent again. */
function encodingOf({ rounds }: MigrationSummary, pageSize: number): NonNullable<Scenario['encoding']> {
  const again = rounds.slice(1);
  const sum = (of: (round: (typeof rounds)[number]) => number) => again.reduce((total, round) => total + of(round), 0);
  const deltas = sum(({ pages }) => pages.delta);
  const pages = sum((round) => round.pages.delta + round.pages.raw + round.pages.compressed);
  if (pages === 0) return {};
  const share = 1 - sum(({ savedBytes }) => savedBytes) / (pages * pageSize);
  // A delta saves nearly all of a page, so that the sent bytes are those of the other pages, or of all pages when there are no others.
  const deltaShare = deltas / pages;
  const ratio = Math.min(1, Math.max(0.01, share));
  return deltaShare > 0 ? { deltaShare, deltaRatio: ratio } : { compressedRatio: ratio };
}
