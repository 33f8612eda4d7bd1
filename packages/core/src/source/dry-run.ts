import type { DryRunReport, MigrationSummary } from '../migration-event.js';
import type { WelcomeFrame } from '../protocol/frame.js';
import { noPages } from '../round-record.js';
import { noTerms } from './downtime-terms.js';
import type { SourceContext } from './source-context.js';

/** Makes the report of a dry run from the VM and the destination's `welcome`. */
export function dryRunReport(
  { vm, devices }: SourceContext,
  peer: string,
  welcome: WelcomeFrame,
  sizes: readonly number[],
  blockers: readonly string[],
): DryRunReport {
  return {
    peer,
    software: welcome.software,
    version: welcome.version,
    features: welcome.features,
    ramBytes: vm.memory.blocks.reduce((sum, { byteLength }) => sum + byteLength, 0),
    devices: vm.devices.map(({ id, version }, index) => {
      const assumed = devices.reports.assumptions[index];
      return { id, version, stateBytes: sizes[index] ?? 0, ...(assumed === undefined ? {} : { assumed }) };
    }),
    maximumDeviceState: welcome.maximumDeviceState,
    blockers,
  };
}

/** The summary of a dry run: no page was moved. */
export function emptySummary({ options, meter, session }: SourceContext, dryRun: DryRunReport): MigrationSummary {
  return {
    migrationId: options.migrationId,
    totalMs: meter.elapsedMs,
    downtimeMs: 0,
    predictedDowntimeMs: 0,
    predictedDowntimeRangeMs: [0, 0],
    downtime: noTerms(),
    verifyMs: 0,
    heldMs: 0,
    verified: false,
    verifiedPages: 0,
    rounds: [],
    pages: noPages(),
    rawBytes: 0,
    wireBytes: session.wireBytes,
    deviceBytes: 0,
    outsideRoundsBytes: session.wireBytes,
    savedBytes: 0,
    attempts: [],
    throttledMs: 0,
    shadows: [],
    runState: 'running',
    dryRun,
  };
}
