/**
 * `@godwit/core`: what embedders use, and authors of transports, encodings, policies, trackers and page streams. The parts that the
 * engine is made of are in `@godwit/core/pages`, which may change in any version.
 *
 * @module @godwit/core
 */
export { checkOptions, nonNegative, suggestion } from './argument.js';
export { assertMayChange, type ClaimState, type ClaimStatus, claimOf, reclaim } from './claim/claim.js';
export { type Clock, systemClock } from './clock.js';
export { totalDowntime } from './convergence/downtime-model.js';
export { type DefaultBudget, defaultBudget } from './convergence/policies/default-budget.js';
export { strictlyWithinDowntimeLimit, withinDowntimeLimit } from './convergence/policies/downtime-limit.js';
export type { EndOfPatience } from './convergence/policies/end-of-patience.js';
export { firstOpinion } from './convergence/policies/first-opinion.js';
export { type LimitRampOptions, limitRamp, vep291Rule } from './convergence/policies/limit-ramp.js';
export { postcopyAfterRound } from './convergence/policies/postcopy-after-round.js';
export { type PresetName, presets } from './convergence/policies/presets.js';
export { type AutoConvergeOptions, qemuAutoConverge, qemuPolicy, qemuRule } from './convergence/policies/qemu.js';
export { roundCap } from './convergence/policies/round-cap.js';
export { type LocalMinimumOptions, localMinimum, type StallOptions, stalled } from './convergence/policies/stall.js';
export { type ThrottlePolicyOptions, throttleToConverge } from './convergence/policies/throttle.js';
export { throttleExhausted } from './convergence/policies/throttle-exhausted.js';
export { type Budget, timeBudget, withinTimeBudget } from './convergence/policies/time-budget.js';
export { unreachableLimit } from './convergence/policies/unreachable-limit.js';
export { type Vep248Options, vep248Rule } from './convergence/policies/vep248.js';
export type {
  ConvergencePolicy,
  PolicyInput,
  PolicyMoment,
  RoundOutcome,
} from './convergence/policy.js';
export type { Received } from './destination/destination-context.js';
export { IncomingMigration, type ReceiveOptions, receive } from './destination/incoming-migration.js';
export type { PageBoardBuffers } from './destination/page-board.js';
export type { ChannelDevice, ChannelRoundEnd } from './destination/read-page-channel.js';
export type { FreePages } from './device/free-pages.js';
export type { MigratableDevice, StateBytes } from './device/migratable-device.js';
export type { MigratableVm, RunState, ThrottleOptions } from './device/migratable-vm.js';
export type { DeltaCacheStorage } from './encoding/delta-cache.js';
export {
  type Compression,
  type DeltaEncoding,
  type DeltaOptions,
  delta,
  type EncodingRecipe,
  type PageEncoding,
  type WholePageEncoding,
} from './encoding/page-encoding.js';
export type { SharedEncodings } from './encoding/sent-encodings.js';
export type {
  PageStreamDecoder,
  PageStreamEncoder,
  PagesOfBatch,
  StreamEncoding,
} from './encoding/stream-encoding.js';
export { type CauseJson, ERROR_CODES, type ErrorCode, GodwitError, type GodwitErrorJson, quoted } from './errors.js';
export { type EstimatedLink, type EstimateOptions, estimate } from './estimate/estimate.js';
export type { Estimate, EstimatedTime, EstimateSettings } from './estimate/estimate-from.js';
export type { GuestSample } from './estimate/sample-guest.js';
export type { WorkingSetPoint } from './estimate/working-set.js';
export type { BlockingFrames, FileTarget, FrameStream, PayloadTarget, ReceivedFrame } from './link/frame-stream.js';
export {
  type ComingPages,
  HANDSHAKE_TIMEOUT_MS,
  type IncomingLink,
  type LinkConnector,
  type LinkListener,
  type LinkRequest,
  type MigrationLink,
} from './link/migration-link.js';
export type { PageStream, RemoteAnswering, RemoteReading, RemoteSending } from './link/page-stream.js';
export { DirtyBitmap } from './memory/dirty-bitmap.js';
export { DirtyBitmaps } from './memory/dirty-bitmaps.js';
export {
  type GuestMemory,
  type MemoryFile,
  pagesOf,
  populatedRuns,
  RAM_WINDOW_BYTES,
  type RamBlock,
} from './memory/guest-memory.js';
export type { NamedPages } from './memory/named-pages.js';
export { type PageRun, PageRunList } from './memory/page-run.js';
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
export type { FaultStatus } from './missing/fault-status.js';
export type { FaultService, MissingMemory, PagesToServe } from './missing/missing-memory.js';
export type { MissingSink } from './missing/missing-sink.js';
export type { PagePlace, PageSource } from './missing/page-source.js';
export { localAuthority, type OwnershipAuthority, type Transfer } from './ownership/ownership-authority.js';
export type { PageTarget } from './protect/page-target.js';
export type { BackgroundReport, ProtectionStatus } from './protect/protection-status.js';
export type { PagesToProtect, ProtectedMemory, WriteProtection } from './protect/write-protection.js';
export {
  type AnyPagesFrame,
  type ArrivedFrame,
  type AttachFrame,
  type AwaitPiecesFrame,
  type BackAckFrame,
  type BackFrame,
  type BlockDescription,
  type CompressedPagesFrame,
  type DeltaPagesFrame,
  type DeviceDescription,
  type DeviceFrame,
  type DigestsEndFrame,
  type DigestsFrame,
  type ErrorFrame,
  type Frame,
  type GoFrame,
  HELLO_STAGES,
  type HelloFrame,
  type HelloStage,
  type LoadEarlyFrame,
  type LoadedFrame,
  type MissingFrame,
  MOVED_RUN_STATES,
  type MovedRunState,
  type OwedFrame,
  type PagesFrame,
  type PingFrame,
  type PongFrame,
  type PreparedFrame,
  type PrepareFrame,
  RESUMED_STATES,
  type ReadyFrame,
  type ReceivedPagesFrame,
  type ReleasedFrame,
  type RequestPagesFrame,
  type ResumedFrame,
  type RoundAckFrame,
  type RoundEndFrame,
  type RunningFrame,
  type SwitchoverFrame,
  type VerifiedFrame,
  type WelcomeFrame,
  type WholeFrame,
  type ZeroPagesFrame,
} from './protocol/frame.js';
export { FRAME_TYPES, FRAMES_WITH_PAYLOAD, type FrameName } from './protocol/frame-types.js';
export { FEATURES, MAXIMUM_PAGE_CHANNELS, PROTOCOL_VERSION } from './protocol/negotiate.js';
export {
  ALWAYS,
  ANY_STREAM_FRAMES,
  DESTINATION_PHASES,
  type DestinationPhaseName,
  isLegal,
  PAGE_CHANNEL_FRAMES,
  type PhaseName,
  PROTOCOL,
  type Role,
  SOURCE_PHASES,
  type SourcePhaseName,
} from './protocol/protocol-table.js';
export type { PageQueueBuffers } from './queue/page-queue.js';
export type { Rearm } from './queue/page-taker.js';
export type {
  Decision,
  DowntimeRanges,
  DowntimeTerms,
  PagesByKind,
  RoundRecord,
  TrackerHarvest,
  VcpuDirtying,
} from './round-record.js';
export type { KeepaliveOptions } from './session/keepalive.js';
export { Migration } from './source/migration.js';
export type { AdjustableOptions, MigrateOptions } from './source/options.js';
export type { PageBatch, PageChannel, PageChannelTotals, TakenRound } from './source/page-channel.js';
export { MIGRATION_TRANSITIONS } from './source/state.js';
export type { ThreadRecipe } from './thread-recipe.js';
export type { DirtyTracker } from './tracker/dirty-tracker.js';
export { SoftwareTracker } from './tracker/software-tracker.js';
export type { RearmRecipe } from './tracker/tracker-union.js';
export { TrackerUnion } from './tracker/tracker-union.js';
export { WriteMarks, type WriteMarksStorage } from './tracker/write-marks.js';
