import { GodwitError } from '../errors.js';
import { settledWithin } from '../in-time.js';
import { CLOSING_MS } from '../session/closing-message.js';
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
  const lost = connection?.signal.aborted === true && !session.signal.aborted ? connection.signal.reason : undefined;
  const first = session.end.cause ?? GodwitError.wrap(lost ?? error, 'GODWIT_INTERNAL', 'the migration failed');
  if (!ownership.allows('fail')) {
    const reason = await giveUp(context, first);
    await letGo(context, async () => {});
    return reason;
  }
  const wasPaused = ownership.state === 'paused';
  ownership.apply('fail');
  // Ends what is still under way, and makes a later `cancel` say that it comes too late.
  let reason = session.end.set(first);
  if (guest.asked) reason = await resume(context, reason);
  if (connection !== undefined) reason = await connection.cause(reason);
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
export async function giveUp({ ownership, session, claim }: SourceContext, reason: GodwitError): Promise<GodwitError> {
  if (ownership.allows('giveUp')) ownership.apply('giveUp');
  await session.close(reason);
  if (ownership.state !== 'unknown') return reason;
  claim.handOver();
  return ownershipUnknown(reason);
}

/** Nothing of ours touches the guest any more when it runs again. */
async function resume({ devices, guest, options, emit }: SourceContext, error: GodwitError): Promise<GodwitError> {
  await settledWithin(devices.calls.idle(), options.clock, SAVE_ENDS_MS);
  try {
    if (await guest.resume(options.clock)) return error;
    emit({
      type: 'warning',
      code: 'GODWIT_VM_FAILED',
      message: 'pause() has not returned: the guest is resumed as soon as it does',
    });
    return error;
  } catch (resumeError) {
    return new GodwitError(
      'GODWIT_VM_FAILED',
      `the migration failed (${error.message}) and then the guest could not be resumed at the source: ${String(resumeError)}`,
      { cause: error },
    );
  }
}
