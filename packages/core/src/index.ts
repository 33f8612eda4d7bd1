export { type Clock, systemClock } from './clock.js';
export { DowntimeModel, totalDowntime } from './convergence/downtime-model.js';
export {
  type ConvergencePolicy,
  firstOpinion,
  type PolicyInput,
  type RoundOutcome,
  roundCap,
  timeBudget,
  withinDowntimeLimit,
} from './convergence/policy.js';
export { PageWriter } from './destination/page-writer.js';
export { type ChannelRoundEnd, readPageChannel } from './destination/read-page-channel.js';
export { type ReceiveOptions, Reception, receive } from './destination/reception.js';
export { ReceptionBoard, type ReceptionBoardBuffers } from './destination/reception-board.js';
export type { Received } from './destination/reception-run.js';
export type { MigratableDevice } from './device/migratable-device.js';
export type { MigratableVm } from './device/migratable-vm.js';
export { ChannelEncoder, type ChannelEncoderParts } from './encoding/channel-encoder.js';
export type { DeltaCacheStorage } from './encoding/delta-cache.js';
export { makeEncoding } from './encoding/make-encoding.js';
export {
  type Compression,
  type DeltaEncoding,
  type DeltaOptions,
  delta,
  type EncodingRecipe,
  type PageEncoding,
} from './encoding/page-encoding.js';
export type { SharedEncodings } from './encoding/sent-encodings.js';
export { ERROR_CODES, type ErrorCode, GodwitError } from './errors.js';
export {
  type AnyPagesFrame,
  type AttachFrame,
  type BlockDescription,
  type CompressedPagesFrame,
  type DeltaPagesFrame,
  type DeviceDescription,
  type DeviceFrame,
  type DigestsEndFrame,
  type DigestsFrame,
  type ErrorFrame,
  FRAME_TYPES,
  FRAMES_WITH_PAYLOAD,
  type Frame,
  type FrameName,
  type GoFrame,
  HELLO_STAGES,
  type HelloFrame,
  type HelloStage,
  type PagesFrame,
  type PingFrame,
  type PongFrame,
  RESUMED_STATES,
  type ReadyFrame,
  type ReceivedPagesFrame,
  type ReleasedFrame,
  type ResumedFrame,
  type RoundAckFrame,
  type RoundEndFrame,
  type RunningFrame,
  type SwitchoverFrame,
  type VerifiedFrame,
  type WelcomeFrame,
  type ZeroPagesFrame,
} from './link/frame.js';
export type { FrameStream, ReceivedFrame } from './link/frame-stream.js';
export type { KeepaliveOptions } from './link/keepalive.js';
export type { IncomingLink, LinkConnector, LinkListener, LinkRequest, MigrationLink } from './link/migration-link.js';
export { FEATURES, PROTOCOL_VERSION, SOFTWARE } from './link/negotiate.js';
export type { PageStream, RemoteReading } from './link/page-stream.js';
export { DirtyBitmap } from './memory/dirty-bitmap.js';
export { DirtyBitmaps } from './memory/dirty-bitmaps.js';
export { type GuestMemory, pagesOf, populatedRuns, RAM_WINDOW_BYTES, type RamBlock } from './memory/guest-memory.js';
export { MemoryWindows } from './memory/memory-windows.js';
export { type PageRun, PageRunList } from './memory/page-run.js';
export type {
  DowntimeTerm,
  MigrationEvent,
  MigrationState,
  MigrationSummary,
  Progress,
  ReceivedPages,
  ReceptionEvent,
  ReceptionState,
  ReceptionSummary,
} from './migration-event.js';
export {
  DESTINATION_OWNERSHIP,
  type DestinationOwnershipEvent,
  type DestinationOwnershipState,
} from './ownership/destination-ownership.js';
export { Ownership, type OwnershipState, type OwnershipTable } from './ownership/ownership.js';
export {
  SOURCE_OWNERSHIP,
  type SourceOwnershipEvent,
  type SourceOwnershipState,
} from './ownership/source-ownership.js';
export type { Decision, DowntimeTerms, PagesByKind, RoundRecord, TrackerHarvest } from './round-record.js';
export { Migration, migrate } from './source/migration.js';
export type { AdjustableOptions, MigrateOptions } from './source/options.js';
export {
  LocalPageChannel,
  noTotals,
  type PageBatch,
  type PageChannel,
  type PageChannelTotals,
} from './source/page-channel.js';
export { pageFrames } from './source/page-frames.js';
export { MIGRATION_TRANSITIONS } from './source/state.js';
export type { DirtyTracker } from './tracker/dirty-tracker.js';
export { SoftwareTracker } from './tracker/software-tracker.js';
export { TrackerUnion } from './tracker/tracker-union.js';
export { DIGEST_BYTES, digestWords } from './verify/page-digest.js';
