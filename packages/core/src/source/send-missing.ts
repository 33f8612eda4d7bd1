import { abortable } from '../abortable.js';
import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import type { MigrationState } from '../migration-event.js';
import { mayRetry } from '../session/retry.js';
import { roundStarted } from './round-events.js';
import { settle } from './settlement.js';
import type { SourceConnection } from './source-connection.js';
import type { SourceContext } from './source-context.js';
import { isFinal } from './state.js';

/**
 * Sends the pages that are missing at the destination, where the guest runs, over any number of connections: after a lost link the source
 * tries for `reconnectTimeoutMs` to reconnect, and the destination then names the pages that it lacks. Resolves, with the guest released,
 * once the destination lacks none.
 */
export async function sendMissing(context: SourceContext): Promise<void> {
  const { session, options, ownership, limit, queue, emit } = context;
  const { clock } = options;
  const start = clock.now();
  const pages = context.missingPages;
  let lostLinks = 0;
  enter(context, 'postcopy-active');
  limit.smooth = true;
  limit.bytesPerSecond = options.postcopyBandwidth;
  for (;;) {
    const connection = session.current;
    const owed = queue.count();
    try {
      if (connection === undefined) throw new GodwitError('GODWIT_LINK_LOST', 'the link was lost');
      await sendOver(context, connection);
      break;
    } catch (error) {
      context.settling.signal.throwIfAborted();
      const reason = connection === undefined ? (error as GodwitError) : await connection.cause(error);
      // The destination was already asked over another connection, and would give the same answer again.
      if (error instanceof NotWhole && owed === 0) throw reason;
      if (!mayRetry(reason, 'after-go') || options.reconnectTimeoutMs === 0) throw reason;
      lostLinks++;
      const since = connection === undefined ? clock.now() : session.reportLost(connection, reason);
      enter(context, 'postcopy-paused');
      await session.drop(reason);
      enter(context, 'postcopy-recover');
      const { incomplete } = await settle(context, options.reconnectTimeoutMs);
      const { current } = session;
      emit({
        type: 'reconnected',
        connection: current?.request.connection ?? 0,
        downMs: clock.now() - since,
        restarted: false,
      });
      // The settlement has settled the ownership too.
      if (!incomplete) break;
      enter(context, 'postcopy-active');
    }
  }
  // The embedder may have declared the destination dead at this moment: the guest then runs here.
  context.settling.signal.throwIfAborted();
  context.postcopyReport = { pages, ms: clock.now() - start, lostLinks };
  if (ownership.state === 'handedOver') ownership.apply('running');
}

async function sendOver(context: SourceContext, connection: SourceConnection): Promise<void> {
  const { rounds, queue, settling, options } = context;
  const { whole } = connection;
  if (whole === undefined)
    throw new GodwitError('GODWIT_INTERNAL', 'the destination has not said that pages are missing');
  roundStarted(context, queue.count());
  const over = [connection.signal, settling.signal] as const;
  await abortable(rounds.sendMissing(connection), ...over);
  const { clock, handshakeTimeoutMs } = options;
  await inTime(abortable(whole, ...over), clock, handshakeTimeoutMs, () => new NotWhole(handshakeTimeoutMs));
}

/**
 * The error for a destination that has acknowledged every page that it had named and still lacks pages: over another connection it names
 * these.
 */
class NotWhole extends GodwitError {
  constructor(handshakeTimeoutMs: number) {
    super(
      'GODWIT_TIMEOUT',
      `the destination has acknowledged the last page that it lacked, but has not said "whole" within handshakeTimeoutMs (${handshakeTimeoutMs} ms)`,
    );
  }
}

/** After the end of the migration, in `settle()`, its state stays as it is. */
function enter({ state, setState }: SourceContext, next: MigrationState): void {
  if (!isFinal(state()) && state() !== next) setState(next);
}
