import { abortable } from '../abortable.js';
import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import type { IncomingEvent, IncomingState } from '../migration-event.js';
import type { Arriving, DestinationContext, HandlingPhase } from './destination-context.js';
import type { IncomingConnection } from './incoming-connection.js';
import { readFrom, unanswered, writeNamed } from './serve.js';

/** The end of a phase in which pages come. */
export interface PagesOver {
  /** Aborts when no more pages are waited for: all are there, or cannot be had. */
  readonly over: AbortSignal;
  /** Aborts, before `over`, when pages cannot be had: nothing waits for the source any more. */
  readonly lost: AbortSignal;
}

/**
 * Receives missing pages while the guest runs here. Tells the source that the guest runs (`running`); after a lost link waits for the
 * source to come back, without a time limit (a vCPU that needs a missing page waits too), and then names the pages that are missing.
 * Resolves after `over` has aborted, once a source that has just come back is answered; after `lost` without waiting for the answer. Never
 * rejects.
 */
export async function overConnections(
  context: DestinationContext,
  phase: HandlingPhase,
  { over, lost }: PagesOver,
): Promise<void> {
  const { session, emit, options } = context;
  const { resumeMs, sinceReadyMs } = context.arriving as Arriving;
  let connection = session.current;
  let next: 'running' | 'resumed' = 'running';
  for (;;) {
    try {
      if (connection === undefined) throw new GodwitError('GODWIT_LINK_LOST', 'the link was lost');
      // What is written later on this connection follows this frame, so that the write need not be awaited after the end.
      if (next === 'running') await abortable(connection.write({ type: 'running', resumeMs, sinceReadyMs }), over);
      else {
        const { clock, handshakeTimeoutMs } = options;
        const answering = resume(context, connection);
        await abortable(
          inTime(answering, clock, handshakeTimeoutMs, () => unanswered(handshakeTimeoutMs)),
          lost,
        );
        emit({ type: 'reconnected', connection: connection.hello.connection, peer: connection.peer });
        enter(context, phase, 'postcopy-active');
      }
      connection.keepAlive(options);
      // The wait ends with the connection's failure, or with `over` when all pages are there.
      await abortable(new Promise<never>(() => {}), connection.signal, over);
    } catch (error) {
      if (over.aborted) return;
      // Every failure counts as a lost link: the guest runs here, and only the source has its missing pages.
      const reason = GodwitError.wrap(connection?.signal.reason ?? error, 'GODWIT_LINK_LOST', 'the connection failed');
      connection?.end(reason);
      await session.drop(reason);
      // The pages that came before the failure may have been the last ones; then no further connection is needed.
      context.missing?.arrived();
      if (over.aborted) return;
      // A caller who has recovered the guest has dropped the connection, which is not reported.
      if (connection !== undefined) emit({ type: 'link-lost', reason });
    }
    enter(context, phase, 'postcopy-paused');
    try {
      connection = await session.next(over);
    } catch (error) {
      if (over.aborted) return;
      emit(noMorePages(context, error));
      await abortable(new Promise<never>(() => {}), over).catch(() => {});
      return;
    }
    if (lost.aborted) return;
    enter(context, phase, 'postcopy-recover');
    next = 'resumed';
  }
}

/** Answers the source's hello: names the pages that are missing, and asks for those that a thread waits for. */
async function resume(context: DestinationContext, connection: IncomingConnection): Promise<void> {
  const arriving = context.arriving as Arriving;
  const { loader, welcome, resumeMs, sinceReadyMs } = arriving;
  await connection.takeChannels(context.options.handshakeTimeoutMs);
  const round = arriving.receiver?.round ?? 1;
  readFrom(context, arriving, connection);
  if (context.missing !== undefined)
    await writeNamed(context, arriving, connection, 'missing', context.missing.missing());
  await connection.write({
    type: 'resumed',
    ...{ state: 'incomplete', round, deviceSequences: loader.sequences, deviceResets: loader.resets },
    ...{ incarnation: welcome.incarnation, resumeMs, sinceReadyMs },
  });
}

function enter({ setState, serving }: DestinationContext, phase: HandlingPhase, state: IncomingState): void {
  if (serving === phase) setState(state);
}

/** The warning that no further connection can come: the wait for the pages ends only when the embedder gives them up. */
function noMorePages({ missing }: DestinationContext, error: unknown): IncomingEvent {
  const pages = missing?.status().pagesMissing ?? 0;
  const why = error instanceof Error ? error.message : String(error);
  return {
    type: 'warning',
    code: 'GODWIT_LINK_LOST',
    message: `the source cannot connect any more (${why}), and ${pages} pages of the guest are only there: giveUpPages() ends the wait for them`,
  };
}
