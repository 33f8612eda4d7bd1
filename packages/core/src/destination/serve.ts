import { abortable } from '../abortable.js';
import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import type { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import { namedPages } from '../memory/named-pages.js';
import type { MissingMemory } from '../missing/missing-memory.js';
import type { MissingSink } from '../missing/missing-sink.js';
import type { ResumedFrame } from '../protocol/frame.js';
import { checkChecksums, FEATURES } from '../protocol/negotiate.js';
import { mayRetry } from '../session/retry.js';
import type { Arriving, DestinationContext, DestinationPhase, ServingPhase } from './destination-context.js';
import { onChannels, readPiece, takePiece } from './device-pieces.js';
import type { IncomingConnection } from './incoming-connection.js';
import { tellLoaded } from './loaded-reports.js';
import { PageReceiver } from './page-receiver.js';
import { watchRequests } from './unanswered-requests.js';

/** A phase that serves frames, and a promise of the next phase. */
export type Serving = ServingPhase & { readonly next: Promise<DestinationPhase> };

/**
 * Serves the source over as many connections as it makes, until the phase leads to the next one. While the guest's state is
 * incomplete, a source whose link was lost may take `reconnectTimeoutMs` to reconnect; once everything is loaded there is no limit.
 */
export async function serve(context: DestinationContext, phase: Serving): Promise<DestinationPhase> {
  const { session } = context;
  for (;;) {
    const connection = session.current;
    try {
      if (connection === undefined) throw new GodwitError('GODWIT_INTERNAL', 'there was no connection');
      return await abortable(phase.next, connection.signal, session.signal);
    } catch (error) {
      // A frame that was read before the failure has changed the phase, so the next phase follows.
      if (context.serving !== phase) return phase.next;
      await lost(context, connection, error);
    }
    const came = await sourceReturned(context, phase);
    if (came !== undefined && came !== phase) return came;
    if (context.serving !== phase) return phase.next;
  }
}

/** Begins to read this connection's frames, and its pages into memory after those of earlier connections. */
export function readFrom(context: DestinationContext, arriving: Arriving, connection: IncomingConnection): void {
  const { options } = context;
  const { windows, encodings, welcome, receiver: before = arriving.contents } = arriving;
  if (welcome.features.includes(FEATURES.checksum)) {
    checkChecksums(connection.streams, connection.peer, "the source's");
  }
  const elsewhere = connection.pageChannels.some((channel) => channel.receivePages !== undefined);
  const count = Math.max(1, connection.pageChannels.length);
  const receiver = new PageReceiver(windows, count, options.clock, encodings, elsewhere, before, sinksOf(context));
  arriving.receiver = receiver;
  arriving.loader.connectionBegins();
  connection.readPages(
    receiver,
    (channel, round, pages) => channelEnded(context, connection, receiver, channel, round, pages),
    onChannels(arriving)
      ? {
          read: (stream, frame, payloadBytes) => readPiece(context, connection, stream, frame, payloadBytes),
          take: (frame, bytes) => takePiece(context, connection, frame, bytes),
        }
      : undefined,
  );
  connection.serve(
    () => context.serving?.protocolPhase ?? 'preparing',
    (received) => context.serving?.handle(received),
  );
  askForMissing(context, connection);
}

/**
 * While pages are missing, lets this connection's page channels put the pages that come, and asks for pages over its urgent channel.
 */
export function askForMissing({ missing, options }: DestinationContext, connection: IncomingConnection): void {
  const { urgent, signal } = connection;
  if (missing === undefined || urgent === undefined || signal.aborted) return;
  connection.putMissing(missing.sinkRecipe);
  const onLost = (reason: GodwitError): void => connection.end(reason);
  missing.askOver(urgent, onLost);
  const { clock, silenceTimeoutMs } = options;
  void watchRequests({ missing, urgent, silenceTimeoutMs, clock, signal, onLost });
}

/** Makes a sink for each channel, since the channels read payloads at the same time. */
function sinksOf(context: DestinationContext): (channel: number) => MissingSink {
  const sinks = new Map<number, { readonly of: MissingMemory; readonly sink: MissingSink }>();
  return (channel) => {
    const { missing } = context;
    if (missing === undefined) throw new GodwitError('GODWIT_INTERNAL', 'no page is missing');
    let known = sinks.get(channel);
    if (known?.of !== missing) {
      known = { of: missing, sink: missing.sink() };
      sinks.set(channel, known);
    }
    return known.sink;
  };
}

/** Acknowledges the round once every channel has ended it: guest memory then has the contents of the round. */
export async function channelEnded(
  context: DestinationContext,
  connection: IncomingConnection,
  receiver: PageReceiver,
  channel: number,
  round: number,
  channelPages: number,
): Promise<void> {
  const { emit, arriving } = context;
  connection.signal.throwIfAborted();
  const pages = receiver.channelEnded(channel, channelPages);
  if (pages === undefined) return;
  const acknowledge = async (): Promise<void> => {
    arriving?.loader.pagesCame(receiver.board.received);
    receiver.nextRound();
    emit({ type: 'round', round, pages });
    // The missing memory is told before the write, which may fail: its pages may be complete already.
    context.missing?.arrived();
    await connection.write({ type: 'roundAck', round, pages });
  };
  const clearing = receiver.clearUnnamed(() => connection.signal.aborted || receiver.board.stopped);
  if (clearing === undefined) return acknowledge();
  // Not awaited: the control stream is read meanwhile, so that pings are answered. No page may come before the acknowledgement.
  const ending = clearing.then(acknowledge);
  void connection.borrow(
    ending.catch((error: unknown) => connection.end(GodwitError.wrap(error, 'GODWIT_INTERNAL', 'a round failed'))),
  );
}

/** Drops a connection that was lost, and emits `link-lost`. Throws `error` if the link was not lost. */
async function lost(
  { session, ownership, emit }: DestinationContext,
  connection: IncomingConnection | undefined,
  error: unknown,
): Promise<void> {
  const recovering = ownership.state === 'recovering' || ownership.state === 'recovered';
  if (!recovering) session.signal.throwIfAborted();
  const reason = GodwitError.wrap(connection?.signal.reason ?? error, 'GODWIT_INTERNAL', 'the connection failed');
  // Once everything is loaded, even a garbled frame is retried: it may have been `go`.
  if (!recovering && !mayRetry(reason, ownership.state === 'ready' ? 'after-go' : 'connected')) throw reason;
  await session.drop(reason);
  session.linkLost = true;
  session.lastLoss = reason;
  if (recovering) return;
  session.signal.throwIfAborted();
  emit({ type: 'link-lost', reason });
  if (ownership.state === 'ready') emit({ type: 'source-may-run', reason });
}

/**
 * Waits for the source to reconnect and answers its hello. Resolves with the phase that the hello leads to, or with `undefined` when
 * that connection is lost too.
 */
async function sourceReturned(context: DestinationContext, phase: Serving): Promise<DestinationPhase | undefined> {
  const { session, options, emit, ownership } = context;
  const { clock, reconnectTimeoutMs, handshakeTimeoutMs } = options;
  const waiting = new AbortController();
  const stop = () => waiting.abort(session.signal.reason);
  if (session.signal.aborted) stop();
  session.signal.addEventListener('abort', stop, { once: true });
  let connection: IncomingConnection | undefined;
  try {
    const coming = session.next(waiting.signal);
    coming.catch(() => {});
    const patient = ownership.state !== 'receiving';
    const limited = patient
      ? coming
      : inTime(coming, clock, reconnectTimeoutMs, () => notBack(session.lastLoss, reconnectTimeoutMs));
    const came = await Promise.race([limited, phase.next]);
    if (!('hello' in came)) return undefined;
    connection = came;
  } catch (error) {
    if (context.serving !== phase) return undefined;
    throw error;
  } finally {
    waiting.abort(new GodwitError('GODWIT_LINK_LOST', 'nobody waits for the source any more'));
    session.signal.removeEventListener('abort', stop);
  }
  const { hello, peer } = connection;
  try {
    await connection.takeChannels(handshakeTimeoutMs);
    await context.undoing;
    const { attempt } = context.arriving as Arriving;
    const next = phase.returned(hello);
    await context.undoing;
    const answering = answer(context, connection, next, hello.attempt > attempt);
    await inTime(answering, clock, handshakeTimeoutMs, () => unanswered(handshakeTimeoutMs));
    connection.keepAlive(options);
    emit({ type: 'reconnected', connection: hello.connection, peer });
    return next;
  } catch (error) {
    if (!connection.signal.aborted) connection.end(GodwitError.wrap(error, 'GODWIT_INTERNAL', 'the answer failed'));
    return context.serving === phase ? undefined : context.serving;
  }
}

/**
 * Answers the hello of a source that has reconnected: with `welcome` again if nothing has come from the source yet (it may know an
 * earlier process of this destination), else with `received` frames and `resumed`.
 */
export async function answer(
  context: DestinationContext,
  connection: IncomingConnection,
  phase: ServingPhase,
  wentBack: boolean,
): Promise<void> {
  const arriving = context.arriving as Arriving;
  const { receiver, loader, welcome, resumeMs, sinceReadyMs } = arriving;
  const { hello } = connection;
  const state = stateOf(phase);
  const again = state === 'receiving' && hello.stage === 'running' && nothingCame(arriving);
  // The next receiver has a copy of this bitmap, so that nothing changes this one any more.
  const received = state === 'receiving' ? receiver?.board.received : undefined;
  const round = receiver?.round ?? 1;
  if (hello.stage === 'kept')
    connection.serve(
      () => 'kept',
      () => {},
    );
  else {
    phase.take(connection);
    // After going back the round keeps its number and has new pages: a page that has come may come again, with newer content.
    if (wentBack && arriving.receiver !== receiver) arriving.receiver?.board.received.clearAll();
  }
  if (again) {
    await connection.write(welcome);
    return;
  }
  if (received !== undefined) await writeNamed(context, arriving, connection, 'received', received);
  // Until pages are served, all pages that the source has named are missing.
  const missing = context.missing?.missing() ?? (state === 'receiving' ? undefined : arriving.named);
  if (missing !== undefined) await writeNamed(context, arriving, connection, 'missing', missing);
  const resumed: ResumedFrame = {
    type: 'resumed',
    state,
    round,
    deviceSequences: loader.sequences,
    deviceResets: loader.resets,
    incarnation: welcome.incarnation,
    resumeMs,
    sinceReadyMs,
  };
  await connection.write(resumed);
  if (state === 'receiving') await tellLoaded(connection, loader);
}

function stateOf({ protocolPhase }: ServingPhase): ResumedFrame['state'] {
  if (protocolPhase === 'post-copy') return 'incomplete';
  return protocolPhase === 'loading' || protocolPhase === 'ready' ? protocolPhase : 'receiving';
}

/** Names the pages of `bitmaps` in frames of this type. Shared blocks are left out: their pages are never sent. */
export async function writeNamed(
  { options }: DestinationContext,
  { vm, welcome }: Arriving,
  connection: IncomingConnection,
  type: 'received' | 'owed' | 'missing',
  bitmaps: DirtyBitmaps,
): Promise<void> {
  const asBits = welcome.features.includes(FEATURES.bitmap);
  for (const [block, bitmap] of bitmaps.blocks.entries()) {
    if (vm.memory.blocks[block]?.shared) continue;
    for await (const pages of namedPages(bitmap, asBits, options.clock)) {
      await connection.write({ type, block, ...pages });
    }
  }
}

/** Whether this side has kept nothing that the source has sent. */
function nothingCame({ receiver, loader }: Arriving): boolean {
  const noPages = receiver === undefined || (receiver.round === 1 && receiver.board.received.isEmpty());
  const noState = loader.sequences.every((sequence) => sequence === 0) && loader.resets.every((count) => count === 0);
  return noPages && noState;
}

/** The error for a source that does not take the answer to its hello. */
export function unanswered(handshakeTimeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_LINK_LOST',
    `the source did not take the answer to its hello within handshakeTimeoutMs (${handshakeTimeoutMs} ms)`,
  );
}

function notBack(loss: GodwitError | undefined, reconnectTimeoutMs: number): GodwitError {
  return new GodwitError(
    'GODWIT_LINK_LOST',
    `the link was lost (${loss?.message ?? 'for a reason that is not known'}) and the source has not reconnected within reconnectTimeoutMs (${reconnectTimeoutMs} ms)`,
    loss === undefined ? {} : { cause: loss },
  );
}
