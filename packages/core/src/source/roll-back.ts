import { GodwitError } from '../errors.js';
import { settledWithin } from '../in-time.js';
import { CLOSING_MS } from '../session/closing-message.js';
import { isLost } from '../session/connection.js';
import { letGo } from './let-go.js';
import { ownershipUnknown } from './settlement.js';
import type { SourceContext } from './source-context.js';

/** How long a device that is still saving may take to notice that it is over, before the guest runs again. Milliseconds. */
const SAVE_ENDS_MS = 40;

/**
 * The way back from any phase: first the guest, then the peer, then everything that was opened. Returns the error to end with: the
 * first cause, which the destination may have told. After the transfer was asked for, the guest stays paused.
 */
export async function rollBack(context: SourceContext, error: unknown): Promise<GodwitError> {
  const { session, ownership, guest, options, claim } = context;
  const connection = session.current;
  const first = firstCause(context, error);
  if (!ownership.allows('fail')) {
    const reason = await giveUp(context, first);
    await letGo(context, async () => {});
    return reason;
  }
  const wasPaused = ownership.state === 'paused';
  ownership.apply('fail');
  // Ends what is still under way, and makes a later `cancel` say that it comes too late.
  const ended = session.end.set(first);
  // That the guest stands still is more than why it was to run again.
  const stuck = guest.asked ? await resume(context, ended) : guest.stuck ? first : undefined;
  // Of a link that was lost the peer may have told the reason; a cancel is one, whatever was lost before it.
  const reason = stuck ?? (isLost(ended) ? await connection?.cause(ended) : undefined) ?? ended;
  let told = false;
  await letGo(context, async () => {
    told = await session.close(reason);
  });
  if (!told && !reason.remote && session.welcomed && options.reconnectTimeoutMs > 0) {
    // Where the guest was running, the destination cannot be waiting for `go`: one short attempt is enough.
    const patience = wasPaused || session.attempt > 1 ? options.reconnectTimeoutMs : CLOSING_MS;
    await session.tellKept(reason, patience);
  }
  claim.end();
  return reason;
}

/** After the point of no return: the guest stays paused here, unless the embedder has recovered it in the meantime. */
export async function giveUp(
  { ownership, session, claim, transferred }: SourceContext,
  reason: GodwitError,
): Promise<GodwitError> {
  if (ownership.allows('giveUp')) ownership.apply('giveUp');
  // While the authority has not said whose the guest is, the destination stays ready: it may own the guest.
  await session.close(reason, !transferred);
  if (ownership.state !== 'unknown') return reason;
  claim.handOver();
  return ownershipUnknown(reason);
}

/** A connection that is over says why better than what failed by using it; that the guest could not be resumed comes first. */
function firstCause({ session, guest }: SourceContext, error: unknown): GodwitError {
  const { signal } = session.current ?? {};
  const lost: unknown = signal?.aborted === true && !session.signal.aborted ? signal.reason : undefined;
  const cause = guest.stuck ? error : (session.end.cause ?? lost ?? error);
  return GodwitError.wrap(cause, 'GODWIT_INTERNAL', 'the migration failed');
}

/** Nothing of ours touches the guest any more when it runs again. Resolves with why it does not, if it could not be resumed. */
async function resume(
  { devices, guest, options, emit }: SourceContext,
  error: GodwitError,
): Promise<GodwitError | undefined> {
  await settledWithin(devices.calls.idle(), options.clock, SAVE_ENDS_MS);
  try {
    if (await guest.resume(options.clock)) return undefined;
    emit({
      type: 'warning',
      code: 'GODWIT_VM_FAILED',
      message: 'pause() has not returned: the guest is resumed as soon as it does',
    });
    return undefined;
  } catch (resumeError) {
    return new GodwitError(
      'GODWIT_VM_FAILED',
      `the migration failed (${error.message}) and then the guest could not be resumed at the source: ${String(resumeError)}`,
      { cause: error },
    );
  }
}
