export { type MemoryOptions, memory, memoryPair } from './memory.js';
export { type TcpListener, type TcpOptions, tcp } from './tcp.js';
export { type UnixOptions, unix } from './unix.js';
export type { ByteStream, Listener, Transport } from './stream/byte-stream.js';
export { fromDuplex } from './stream/duplex-stream.js';
export { DEFAULT_FRAME_LIMITS, type FrameLimits } from './framing/frame-limits.js';
export { type FrameStreamOptions, frameStream } from './framing/frame-stream.js';
export { connectTo } from './link/connect-to.js';
export { type ListeningLinks, type ListenOptions, listenOn } from './link/listen-on.js';
