/**
 * `@godwit/transport`: byte streams, frames over them, links of them, recordings and snapshots.
 *
 * @module @godwit/transport
 */
export { lz4 } from './compression/lz4.js';
export { type ZstdOptions, zstd, zstdAvailable } from './compression/zstd.js';
export { type ExecOptions, exec } from './exec/exec.js';
export { stdio } from './exec/stdio.js';
export { type DetachedStream, detachStream } from './framing/detach.js';
export { DEFAULT_FRAME_LIMITS, type FrameLimits } from './framing/frame-limits.js';
export { type FrameStreamOptions, frameStream } from './framing/frame-stream.js';
export { connectTo } from './link/connect-to.js';
export type { LinkTransport } from './link/link-transport.js';
export { type ListeningLinks, type ListenOptions, listenOn } from './link/listen-on.js';
export { type MemoryOptions, memory, memoryPair } from './memory.js';
export { type MessagePortOptions, messagePort } from './message/message-port.js';
export { type WebSocketOptions, webSocket } from './message/web-socket.js';
export type { WebSocketListener } from './message/web-socket-listener.js';
export type { ReadableBytes } from './recording/byte-source.js';
export { LinkPhases } from './recording/link-phases.js';
export {
  type BrokenRecording,
  type RecordedFrame,
  type RecordedItem,
  readRecording,
} from './recording/read-recording.js';
export { type Recording, type RecordingSummary, type RecordOptions, recordTo } from './recording/record-to.js';
export type {
  RecordedError,
  RecordedLink,
  RecordedStreamEnd,
  RecordedTrack,
  RecordingEnd,
  RecordingHead,
  Sender,
} from './recording/recording-format.js';
export { rehearse } from './rehearse.js';
export { checkSnapshot, looksLikeSnapshot, type SnapshotItem } from './snapshot/check-snapshot.js';
export { type FileOptions, file } from './snapshot/file.js';
export type { DevicePiece, SnapshotMetadata } from './snapshot/snapshot-metadata.js';
export { AcceptQueue } from './stream/accept-queue.js';
export type { BlockingCalls, ByteStream, DetachedDescriptor, Listener, Transport } from './stream/byte-stream.js';
export { fromDuplex } from './stream/duplex-stream.js';
export { type TcpListener, type TcpOptions, tcp } from './tcp.js';
export { type TlsOptions, tls } from './tls/tls.js';
export type { Pem, PreSharedKey, TlsCredentials } from './tls/tls-credentials.js';
export type { TlsListener } from './tls/tls-listener.js';
export { type UnixOptions, unix } from './unix.js';
export {
  registerTransport,
  type TransportFactory,
  transportFromUri,
  type UriOptions,
} from './uri/transport-from-uri.js';
