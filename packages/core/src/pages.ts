/**
 * `@godwit/core/pages`: the parts that read, write and describe pages and their frames, without the engine and without RxJS. For
 * threads, which must start quickly, and for the other packages of Godwit. **Unstable**: exports that are not in `@godwit/core` as
 * well may change in any version.
 */
export { checkOptions, flag, withMethods } from './argument.js';
export { assertMayChange } from './claim/claim.js';
export { type Clock, systemClock } from './clock.js';
export { PageBoard, type PageBoardBuffers } from './destination/page-board.js';
export { PageWriter } from './destination/page-writer.js';
export { type ChannelDevice, type ChannelRoundEnd, readPageChannel } from './destination/read-page-channel.js';
export { checkRuns } from './destination/run-check.js';
export { ChannelEncoder, type ChannelEncoderParts } from './encoding/channel-encoder.js';
export type { DeltaCacheStorage } from './encoding/delta-cache.js';
export {
  type Compression,
  type DeltaEncoding,
  type DeltaOptions,
  delta,
  type EncodingRecipe,
  makeEncoding,
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
export { ERROR_CODES, type ErrorCode, GodwitError } from './errors.js';
export type { BlockingFrames, FileTarget, FrameStream, PayloadTarget, ReceivedFrame } from './link/frame-stream.js';
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
export { MemoryWindows } from './memory/memory-windows.js';
export { MOST_WORDS, type NamedPages } from './memory/named-pages.js';
export { type PageRun, PageRunList } from './memory/page-run.js';
export { isZero as isZeroPage } from './memory/zero-page.js';
export type { FaultStatus } from './missing/fault-status.js';
export type { FaultService, MissingMemory, PagesToServe } from './missing/missing-memory.js';
export type { MissingSink } from './missing/missing-sink.js';
export type { PagePlace, PageSource } from './missing/page-source.js';
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
export type { PageTarget } from './protect/page-target.js';
export type { ProtectionStatus } from './protect/protection-status.js';
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
  MOST_REQUESTED,
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
export { FEATURES, MAXIMUM_PAYLOAD, SOFTWARE, urgentStreamOf } from './protocol/negotiate.js';
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
  URGENT_FRAMES,
} from './protocol/protocol-table.js';
export { PageQueue, type PageQueueBuffers } from './queue/page-queue.js';
export { PageTaker, type Rearm, type TakenPages } from './queue/page-taker.js';
export { ANSWER_ROUND, type AnsweringParts, answerRequests, RequestAnswers } from './source/answer-requests.js';
export {
  LocalPageChannel,
  noTotals,
  type PageBatch,
  type PageChannel,
  type PageChannelTotals,
  type TakenRound,
} from './source/page-channel.js';
export { pageFrames } from './source/page-frames.js';
export { makeFromRecipe, provideModule, type ThreadRecipe } from './thread-recipe.js';
export type { RearmRecipe } from './tracker/tracker-union.js';
export { digestPages } from './verify/digest-pages.js';
export { DIGEST_BYTES, digestWords } from './verify/page-digest.js';
