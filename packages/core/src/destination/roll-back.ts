import { GodwitError } from '../errors.js';
import { abandonVm } from './abandon-vm.js';
import type { DestinationContext } from './destination-context.js';

/**
 * The way out of any phase without the guest: the source hears why, every stream is let go, and the VM that will never run is
 * abandoned, once nothing touches its memory any more. Returns the first cause.
 */
export async function rollBack(context: DestinationContext, cause: unknown): Promise<GodwitError> {
  const { session, ownership, arriving } = context;
  const first: unknown = session.signal.aborted && !ownership.mayRunGuest ? session.end.cause : cause;
  const error = GodwitError.wrap(first, 'GODWIT_INTERNAL', 'the migration failed at the destination');
  if (ownership.allows('fail')) ownership.apply('fail');
  // Told over the connection that is there, if it is; a source that comes back is told by the router.
  session.end.set(error);
  arriving?.loader.fail(error);
  session.closeReturns(error);
  const said = (await session.current?.close(error)) ?? false;
  session.told = error.remote || (said && !session.linkLost);
  const { vm } = context;
  context.vm = undefined;
  if (ownership.state === 'abandoned') {
    const abandoning = abandonVm(context, vm, error);
    context.claim?.keepUntil(abandoning, 'abandon() of the VM');
    await abandoning;
  }
  context.claim?.end();
  return error;
}
