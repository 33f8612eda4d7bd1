/** Frames over any byte stream, without the transports: for a thread that must start quickly. */
export { type FrameStreamOptions, frameStream } from './frame-stream.js';
