/** Frames over any byte stream, without the transports: for a thread that must start quickly. */
export { type ChecksumState, crc32, tableCrc32 } from './checksum.js';
export { type FrameStreamOptions, frameStream } from './frame-stream.js';
