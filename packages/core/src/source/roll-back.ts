import { GodwitError } from '../errors.js';
import { settledWithin } from '../in-time.js';
import { CLOSING_MS } from '../session/closing-message.js';
import { isLost } from '../session/connection.js';
import { cleanUp } from './clean-up.js';
import { ownershipUnknown } from './settlement.js';
import type { SourceContext } from './source-context.js';

/** How long a device that is still saving may take to stop before the guest runs again. Milliseconds. */
const SAVE_ENDS_MS = 40;

/** How long the carrier may take to accept the reason of a migration whose time is up. Milliseconds. */
const OUT_OF_TIME_MS = 50;

/**
 * How long the result of a migration whose time is up waits for its clean-up; clean-up that takes longer goes on afterwards, and
 * keeps the claim. Milliseconds.
 */
const LAST_MS = 90;

/**
 * Rolls back from any phase: resumes the guest, stops the trackers, tells the peer, releases the devices. Resolves with the error
 * with which the migration ends: the first cause, which the destination may have sent. After the transfer was asked for, the guest
 * stays paused.
 */
export async function rollBack(context: SourceContext, error: unknown): Promise<GodwitError> {
  const { session, ownership, guest, options, claim } = context;
  const connection = session.current;
  const first = firstCause(context, error);
  if (!ownership.allows('fail')) {
    const reason = await giveUp(context, first);
    await cleanUp(context, async () => {});
    return reason;
  }
  const wasPaused = ownership.state === 'paused';
  if (context.postcopy !== undefined) Atomics.store(context.postcopy.open, 0, 0);
  ownership.apply('fail');
  // This ends everything that is still under way, and makes a later `cancel` return false.
  const ended = session.end.set(first);
  // The throttle ends before the guest runs on, so that the guest runs at full speed.
  context.throttle.end();
  // A guest that could not be resumed is reported before the reason for resuming it.
  const stuck = guest.asked ? await resume(context, ended) : guest.stuck ? first : undefined;
  // The peer may have sent the reason for a lost link; after a cancel that does not matter.
  const reason = stuck ?? (isLost(ended) ? await connection?.cause(ended) : undefined) ?? ended;
  const ending = tellAndCleanUp(context, reason, wasPaused);
  if (outOfTime(reason)) {
    claim.keepUntil(ending, 'the end of a migration whose time was up');
    await settledWithin(ending, options.clock, LAST_MS);
  } else await ending;
  claim.end();
  return reason;
}

async function tellAndCleanUp(context: SourceContext, reason: GodwitError, wasPaused: boolean): Promise<void> {
  const { session, options } = context;
  let told = false;
  await cleanUp(context, async () => {
    // A migration whose time is up ends at once: behind many pages on a slow link the reason goes over another connection.
    told = await session.close(reason, false, outOfTime(reason) ? OUT_OF_TIME_MS : undefined);
  });
  if (told || reason.remote || !session.welcomed || options.reconnectTimeoutMs === 0) return;
  // If the guest was running, the destination cannot be waiting for `go`, and one short attempt is enough.
  const patience = wasPaused || session.attempt > 1 ? options.reconnectTimeoutMs : CLOSING_MS;
  await session.tellKept(reason, patience);
}

function outOfTime({ code }: GodwitError): boolean {
  return code === 'GODWIT_NOT_CONVERGING';
}

/**
 * Ends a migration that failed after the point of no return: the guest stays paused at the source, unless the embedder has recovered
 * it. Resolves with the error to end with, which is `GODWIT_OWNERSHIP_UNKNOWN` while the ownership is `unknown`.
 */
export async function giveUp(
  { ownership, session, claim, transferred, byPostcopy, queue }: SourceContext,
  reason: GodwitError,
): Promise<GodwitError> {
  if (ownership.allows('giveUp')) ownership.apply('giveUp');
  // Until the authority has granted the transfer, the destination may own the guest: `retry` keeps it ready.
  await session.close(reason, !transferred);
  if (ownership.state !== 'unknown') return reason;
  claim.handOver();
  return ownershipUnknown(reason, transferred, byPostcopy ? queue.count() + queue.taken.count() : 0);
}

/**
 * The first cause of `error`: the failure to resume the guest, else the cause of the migration's end, else the reason why the
 * connection ended.
 */
function firstCause({ session, guest }: SourceContext, error: unknown): GodwitError {
  const { signal } = session.current ?? {};
  const lost: unknown = signal?.aborted === true && !session.signal.aborted ? signal.reason : undefined;
  const cause = guest.stuck ? error : (session.end.cause ?? lost ?? error);
  return GodwitError.wrap(cause, 'GODWIT_INTERNAL', 'the migration failed');
}

/** Waits until no device call touches the guest and resumes it. Resolves with the error if it could not be resumed. */
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
