/**
 * Parts of the engine that are not API, for tests of the engine itself: they may change in any version.
 */
export { Claim } from '../claim/claim.js';
export { LinkRate } from '../convergence/link-rate.js';
export { ConnectionRouter, connectionRouter } from '../destination/connection-router.js';
export type { DestinationContext } from '../destination/destination-context.js';
export { DeviceLoader, type DeviceLoaderParts } from '../destination/device-loader.js';
export { IncomingConnection } from '../destination/incoming-connection.js';
export { LoadedReports, tellLoaded } from '../destination/loaded-reports.js';
export { MOST_UNTOLD_BYTES, type Outcome, Outcomes } from '../destination/outcomes.js';
export { checkRuns } from '../destination/run-check.js';
export { makePristine, zeroRun } from '../destination/zero-run.js';
export { ChannelEncoder } from '../encoding/channel-encoder.js';
export { DeltaCache } from '../encoding/delta-cache.js';
export { applyDelta, checkDeltas, encodeDelta, putVarint } from '../encoding/delta-format.js';
export { Gain } from '../encoding/gain.js';
export { LinkPace } from '../encoding/link-pace.js';
export { SentEncodings } from '../encoding/sent-encodings.js';
export { MemoryWindows } from '../memory/memory-windows.js';
export { cutHoles } from '../memory/populated-pages.js';
export { splitZeroPages } from '../memory/zero-page.js';
export { RoleEvents } from '../role-events.js';
export { CLOSING_MS, closeStreams } from '../session/closing-message.js';
export { Connection, type ConnectionParts, isLost, remoteError } from '../session/connection.js';
export { FirstCause } from '../session/first-cause.js';
export { KEEPALIVE_ID, type KeepaliveTimes, keepAlive, keepaliveTimes } from '../session/keepalive.js';
export { Pings } from '../session/pings.js';
export { type AttemptParts, keepTrying, mayRetry, type RetryStage } from '../session/retry.js';
export { Attempts } from '../source/attempts.js';
export { BandwidthLimit } from '../source/bandwidth-limit.js';
export { Switchover } from '../source/decide.js';
export { type DeviceLink, DeviceSender } from '../source/device-sender.js';
export { PauseBound, type PauseTerm, TERM_WORDS } from '../source/pause-bound.js';
export { Readiness } from '../source/readiness.js';
export { RoundSender, type SentRound } from '../source/round-sender.js';
export { checkTransition, isFinal } from '../source/state.js';
export { digestPage } from '../verify/page-digest.js';
