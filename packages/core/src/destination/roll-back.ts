import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import { settledWithin } from '../in-time.js';
import { abandonVm } from './abandon-vm.js';
import type { DestinationContext } from './destination-context.js';

/** How long the end waits for the VM to be abandoned. Milliseconds. */
const ABANDON_MS = 1000;

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
  if (ownership.state === 'abandoned') await abandonOnceQuiet(context, vm, error);
  context.claim?.end();
  return error;
}

/**
 * A device that is still loading may write guest memory: the VM is abandoned once it has returned, which the end of the migration
 * waits for a moment only. Until then the claim is held.
 */
async function abandonOnceQuiet(
  context: DestinationContext,
  vm: MigratableVm | undefined,
  error: GodwitError,
): Promise<void> {
  const { arriving, claim, options, emit } = context;
  const { clock } = options;
  const loading = arriving?.loader.idle() ?? Promise.resolve();
  let quiet = false;
  const abandoning = loading.then(() => {
    quiet = true;
    return abandonVm(context, vm, error);
  });
  claim?.keepUntil(loading, 'load() of a device');
  claim?.keepUntil(abandoning, 'abandon() of the VM');
  await settledWithin(abandoning, clock, ABANDON_MS);
  if (quiet) return;
  emit({
    type: 'warning',
    code: 'GODWIT_DEVICE_FAILED',
    message: 'a device has not returned from load(): the VM is abandoned as soon as it does',
  });
}
