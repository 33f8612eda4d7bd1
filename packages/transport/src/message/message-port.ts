import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { checkOptions, GodwitError, nonNegative, quoted } from '@godwit/core';
import { AcceptQueue } from '../stream/accept-queue.js';
import type { ByteStream, Listener, Transport } from '../stream/byte-stream.js';
import { cancelled, throwIfCancelled } from '../stream/cancellation.js';
import { LARGEST_MESSAGE, MessageStream } from './message-stream.js';

/** Options of `messagePort`. */
export interface MessagePortOptions {
  /** How long `connect` waits for a listener at the other end, in milliseconds. Default: 10 000. */
  readonly connectTimeoutMs?: number;
  /** The bytes that may be in flight in each direction before the reader has taken them. Default: 1 MiB. */
  readonly windowBytes?: number;
}

const ADDRESS = 'messageport:';
const ACCEPTED = true;

/** A message that comes through a port with a listener. */
interface Served {
  current: AcceptQueue | undefined;
  windowBytes: number;
}

const served = new WeakMap<MessagePort, Served>();

/**
 * Streams to another thread of this process, through a `MessagePort` whose other end that thread has. One side listens and
 * the other connects, any number of times: each stream gets a port of its own. Only the transport may use the given port
 * from then on; make it with `new MessageChannel()` and give the other end to the worker. The transport never closes it.
 *
 * A `MessagePort` has no back-pressure of its own: the reader grants credit for the bytes that it has taken, and the
 * writer waits for credit. Each byte is copied twice: by the writer from its memory into a message, which moves to the
 * other thread without a copy, and by the reader into its own. Views of shared memory are copied like all others: a page
 * that the guest writes after `write` has resolved arrives as it was before.
 *
 * @example
 * const { port1, port2 } = new MessageChannel();
 * worker.postMessage({ port: port2 }, [port2]); // the worker: receive(await listenOn(messagePort(port)), { prepare })
 * migrate(vm, connectTo(messagePort(port1)));
 */
export function messagePort(port: MessagePort, options: MessagePortOptions = {}): Transport {
  checkOptions<MessagePortOptions>('messagePort', options, { connectTimeoutMs: true, windowBytes: true });
  const timeoutMs = nonNegative('connectTimeoutMs', options.connectTimeoutMs ?? 10_000);
  const windowBytes = options.windowBytes ?? 2 ** 20;
  if (!Number.isSafeInteger(windowBytes) || windowBytes < LARGEST_MESSAGE) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `windowBytes is an integer of at least ${LARGEST_MESSAGE}, got ${quoted(windowBytes)}`,
    );
  }
  return {
    async connect(signal?: AbortSignal): Promise<ByteStream> {
      throwIfCancelled(signal, 'connecting through a MessagePort');
      const { port1, port2 } = new MessageChannel();
      const answered = answer(port, port1, timeoutMs, signal);
      port.postMessage({ connect: port2 }, [port2]);
      try {
        await answered;
        return portStream(port1, windowBytes);
      } catch (error) {
        port1.close();
        throw error;
      }
    },
    async listen(signal?: AbortSignal): Promise<Listener> {
      throwIfCancelled(signal, 'listening on a MessagePort');
      const found = served.get(port);
      if (found?.current !== undefined) {
        throw new GodwitError('GODWIT_CONNECT_FAILED', 'this MessagePort is listened on already; make another');
      }
      const state = found ?? serve(port);
      const queue = new AcceptQueue(ADDRESS);
      state.current = queue;
      state.windowBytes = windowBytes;
      port.ref();
      const end = (): void => {
        if (state.current === queue) state.current = undefined;
        queue.close();
      };
      port.once('close', end);
      return {
        address: ADDRESS,
        accept: (acceptSignal) => queue.shift(acceptSignal),
        close: async () => {
          port.removeListener('close', end);
          end();
          // A peer that connects now is still told that there is no listener, but waiting for one keeps no process alive.
          port.unref();
        },
      };
    },
  };
}

function serve(port: MessagePort): Served {
  const state: Served = { current: undefined, windowBytes: 0 };
  served.set(port, state);
  port.on('message', (message: { connect?: MessagePort } | null) => {
    const own = message?.connect;
    if (typeof own?.postMessage !== 'function') return;
    if (state.current === undefined) {
      own.postMessage('nobody listens there any more');
      own.close();
      return;
    }
    own.postMessage(ACCEPTED);
    state.current.push(portStream(own, state.windowBytes));
  });
  return state;
}

/** Resolves when the other end has accepted. */
async function answer(
  base: MessagePort,
  own: MessagePort,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  let undo: () => void = () => undefined;
  try {
    await new Promise<void>((resolve, reject) => {
      const fail = (why: string): void =>
        reject(new GodwitError('GODWIT_CONNECT_FAILED', `cannot connect through the MessagePort: ${why}`));
      const onAnswer = (message: unknown): void => {
        if (message === ACCEPTED) resolve();
        else fail(String(message));
      };
      const onClose = (): void => fail('it is closed');
      const onAbort = (): void => {
        if (signal !== undefined) reject(cancelled(signal, 'connecting through a MessagePort'));
      };
      const timer = setTimeout(
        () => fail(`nobody answered within connectTimeoutMs = ${timeoutMs}; does the other thread listen on its end?`),
        timeoutMs,
      );
      own.once('message', onAnswer);
      base.once('close', onClose);
      signal?.addEventListener('abort', onAbort, { once: true });
      undo = () => {
        clearTimeout(timer);
        own.removeListener('message', onAnswer);
        base.removeListener('close', onClose);
        signal?.removeEventListener('abort', onAbort);
      };
    });
  } finally {
    undo();
  }
}

/**
 * The messages of a stream: bytes; a number, the credit granted; null, the end; text, the reason why the peer dropped the
 * stream.
 */
function portStream(port: MessagePort, windowBytes: number): ByteStream {
  let ungranted = 0;
  const stream = new MessageStream(
    {
      send(message, owned, sent) {
        const own = owned ? message : new Uint8Array(message);
        port.postMessage(own, [own.buffer as ArrayBuffer]);
        sent();
      },
      sendEnd(sent) {
        port.postMessage(null);
        sent();
      },
      taken(bytes) {
        ungranted += bytes;
        if (ungranted < windowBytes / 4) return;
        port.postMessage(ungranted);
        ungranted = 0;
      },
      finish: () => port.close(),
      drop(reason) {
        port.postMessage(reason.message);
        port.close();
      },
    },
    ADDRESS,
    windowBytes,
  );
  const lost = (why: string): void => stream.lost(new GodwitError('GODWIT_LINK_LOST', why));
  port.on('message', (message: unknown) => {
    if (ArrayBuffer.isView(message)) stream.received(message as Uint8Array);
    else if (typeof message === 'number') stream.grant(message);
    else if (message === null) stream.peerEnded();
    else lost(`the other thread dropped the stream: ${String(message)}`);
  });
  port.on('close', () => lost('the MessagePort was closed, or its thread has ended'));
  return stream;
}
