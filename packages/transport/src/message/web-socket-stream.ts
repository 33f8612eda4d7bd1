import { GodwitError } from '@godwit/core';
import type { WebSocket } from 'ws';
import type { ByteStream } from '../stream/byte-stream.js';
import { MessageStream } from './message-stream.js';

/** The largest message that is accepted from a peer, in bytes. This side's messages are smaller. */
export const MAXIMUM_MESSAGE = 2 ** 20;
/** The bytes of this side that ws and the socket may buffer before writing waits for the kernel. */
const WINDOW_BYTES = 512 * 1024;
/** The unread bytes at which the socket is paused. */
const UNREAD_BYTES = 256 * 1024;

const NORMAL_CLOSURE = 1000;

/**
 * A byte stream over an open WebSocket. Its bytes are binary messages, cut anywhere. WebSocket has no half-close, so that
 * an **empty binary message ends a direction**; the connection is closed when both have ended.
 */
export function webSocketStream(socket: WebSocket, peer: string): ByteStream {
  const stream = new MessageStream(
    {
      send(message, _owned, sent) {
        socket.send(message, { binary: true }, (error) => {
          sent(error);
          if (!error) stream.grant(message.length);
        });
      },
      sendEnd: (sent) => socket.send(new Uint8Array(0), { binary: true }, sent),
      taken() {
        if (socket.isPaused && stream.held < UNREAD_BYTES / 2) socket.resume();
      },
      finish: () => socket.close(NORMAL_CLOSURE),
      drop: () => socket.terminate(),
    },
    peer,
    WINDOW_BYTES,
  );
  let failure: Error | undefined;
  socket.on('message', (message: Uint8Array, isBinary: boolean) => {
    if (!isBinary) {
      stream.lost(new GodwitError('GODWIT_BAD_STREAM', `${peer} sent text; a byte stream is binary messages`));
    } else if (message.length === 0) {
      stream.peerEnded();
    } else {
      stream.received(message);
      if (stream.held >= UNREAD_BYTES) socket.pause();
    }
  });
  socket.on('error', (error) => {
    failure = error;
  });
  socket.on('close', (code) => {
    const why = failure?.message ?? `closed with code ${code} before both directions had ended`;
    stream.lost(
      new GodwitError('GODWIT_LINK_LOST', `the link to ${peer} was lost: ${why}`, failure && { cause: failure }),
    );
  });
  return stream;
}
