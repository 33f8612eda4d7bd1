export { ERROR_CODES, type ErrorCode, GodwitError } from './errors.js';
export { DirtyBitmap } from './memory/dirty-bitmap.js';
export { DirtyBitmaps } from './memory/dirty-bitmaps.js';
export { type GuestMemory, pagesOf, populatedRuns, RAM_WINDOW_BYTES, type RamBlock } from './memory/guest-memory.js';
export { type PageRun, PageRunList } from './memory/page-run.js';
export type { DirtyTracker } from './tracker/dirty-tracker.js';
export type { MigratableDevice } from './device/migratable-device.js';
export type { MigratableVm } from './device/migratable-vm.js';
export {
  type AttachFrame,
  type BlockDescription,
  type DeviceDescription,
  type DeviceFrame,
  type DigestsEndFrame,
  type DigestsFrame,
  type ErrorFrame,
  FRAMES_WITH_PAYLOAD,
  FRAME_TYPES,
  type Frame,
  type FrameName,
  type GoFrame,
  type HelloFrame,
  type PagesFrame,
  type PingFrame,
  type PongFrame,
  type ReadyFrame,
  type RoundAckFrame,
  type RoundEndFrame,
  type RunningFrame,
  type SwitchoverFrame,
  type VerifiedFrame,
  type WelcomeFrame,
  type ZeroPagesFrame,
} from './link/frame.js';
export type { FrameStream, ReceivedFrame } from './link/frame-stream.js';
export type { IncomingLink, LinkConnector, LinkListener, MigrationLink } from './link/migration-link.js';
export { type Clock, systemClock } from './clock.js';
export type {
  DowntimeTerm,
  MigrationEvent,
  MigrationState,
  MigrationSummary,
  Progress,
  ReceptionEvent,
  ReceptionState,
  ReceptionSummary,
} from './migration-event.js';
export type { Decision, DowntimeTerms, PagesByKind, RoundRecord } from './round-record.js';
