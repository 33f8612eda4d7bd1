import type net from 'node:net';
import type tls from 'node:tls';
import type { ByteStream } from '../stream/byte-stream.js';
import { ChunkReceiver } from '../stream/chunk-receiver.js';
import { DuplexStream } from '../stream/duplex-stream.js';
import { paced } from '../stream/paced-stream.js';

/**
 * Node encrypts a whole write at once and holds the result: a piece of 256 KiB blocks the event loop for about a
 * quarter of a millisecond, and limits the ciphertext that a slow reader leaves in memory.
 */
const PIECE_BYTES = 256 * 1024;

/** Makes a byte stream of a TLS socket after its handshake; `raw` is the TCP socket below it. */
export function tlsStream(secure: tls.TLSSocket, raw: net.Socket, peer: string): ByteStream {
  const stream = new DuplexStream(secure, new ChunkReceiver(secure), peer, () => {
    // A reset shows the peer that this is no clean end. It is not possible while the socket is being shut down: see
    // `socket-stream.ts`.
    if (!raw.destroyed && !raw.writableEnded) raw.resetAndDestroy();
    secure.destroy();
    raw.destroy();
  });
  return paced(stream, PIECE_BYTES);
}
