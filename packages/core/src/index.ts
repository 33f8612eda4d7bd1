export { type ClaimState, type ClaimStatus, claimOf, reclaim } from './claim/claim.js';
export { DowntimeModel, totalDowntime } from './convergence/downtime-model.js';
export { type DefaultBudget, defaultBudget } from './convergence/policies/default-budget.js';
export { strictlyWithinDowntimeLimit, withinDowntimeLimit } from './convergence/policies/downtime-limit.js';
export type { EndOfPatience } from './convergence/policies/end-of-patience.js';
export { firstOpinion } from './convergence/policies/first-opinion.js';
export { type LimitRampOptions, limitRamp } from './convergence/policies/limit-ramp.js';
export { type PresetName, presets } from './convergence/policies/presets.js';
export { type AutoConvergeOptions, qemuAutoConverge, qemuPolicy, qemuRule } from './convergence/policies/qemu.js';
export { roundCap } from './convergence/policies/round-cap.js';
export { type LocalMinimumOptions, localMinimum, type StallOptions, stalled } from './convergence/policies/stall.js';
export { type ThrottlePolicyOptions, throttleToConverge } from './convergence/policies/throttle.js';
export { throttleExhausted } from './convergence/policies/throttle-exhausted.js';
export { type Budget, timeBudget, withinTimeBudget } from './convergence/policies/time-budget.js';
export { unreachableLimit } from './convergence/policies/unreachable-limit.js';
export { type Vep248Options, vep248Rule } from './convergence/policies/vep248.js';
export { vep291Rule } from './convergence/policies/vep291.js';
export type {
  ConvergencePolicy,
  PolicyInput,
  PolicyMoment,
  RoundOutcome,
} from './convergence/policy.js';
export type { Received } from './destination/destination-context.js';
export { IncomingMigration, type ReceiveOptions, receive } from './destination/incoming-migration.js';
export type { MigratableDevice, StateBytes } from './device/migratable-device.js';
export type { MigratableVm, RunState, ThrottleOptions } from './device/migratable-vm.js';
export { type EstimatedLink, type EstimateOptions, estimate } from './estimate/estimate.js';
export type { Estimate, EstimatedTime, EstimateSettings } from './estimate/estimate-from.js';
export type { GuestSample } from './estimate/sample-guest.js';
export type { WorkingSetPoint } from './estimate/working-set.js';
export {
  HANDSHAKE_TIMEOUT_MS,
  type IncomingLink,
  type LinkConnector,
  type LinkListener,
  type LinkRequest,
  type MigrationLink,
} from './link/migration-link.js';
export type { PageStream, RemoteReading, RemoteSending } from './link/page-stream.js';
export { DirtyBitmap } from './memory/dirty-bitmap.js';
export { DirtyBitmaps } from './memory/dirty-bitmaps.js';
export { migrate } from './migrate.js';
export type {
  AttemptSummary,
  DowntimeTerm,
  DryRunReport,
  IncomingEvent,
  IncomingState,
  IncomingStatus,
  IncomingSummary,
  MigrationEvent,
  MigrationState,
  MigrationStatus,
  MigrationSummary,
  Progress,
  ReceivedPages,
  ShadowReport,
} from './migration-event.js';
export {
  DESTINATION_OWNERSHIP,
  type DestinationOwnershipEvent,
  type DestinationOwnershipState,
} from './ownership/destination-ownership.js';
export { Ownership, type OwnershipState, type OwnershipTable } from './ownership/ownership.js';
export { localAuthority, type OwnershipAuthority, type Transfer } from './ownership/ownership-authority.js';
export {
  SOURCE_OWNERSHIP,
  type SourceOwnershipEvent,
  type SourceOwnershipState,
} from './ownership/source-ownership.js';
export * from './pages.js';
export { FEATURES, MAXIMUM_PAGE_CHANNELS, PROTOCOL_VERSION, SOFTWARE } from './protocol/negotiate.js';
export type {
  Decision,
  DowntimeRanges,
  DowntimeTerms,
  PagesByKind,
  RoundRecord,
  TrackerHarvest,
} from './round-record.js';
export type { KeepaliveOptions } from './session/keepalive.js';
export { Migration } from './source/migration.js';
export type { AdjustableOptions, MigrateOptions } from './source/options.js';
export { MIGRATION_TRANSITIONS } from './source/state.js';
export type { DirtyTracker } from './tracker/dirty-tracker.js';
export { SoftwareTracker } from './tracker/software-tracker.js';
export { TrackerUnion } from './tracker/tracker-union.js';
export { WriteMarks, type WriteMarksStorage } from './tracker/write-marks.js';
export { DIGEST_BYTES, digestWords } from './verify/page-digest.js';
