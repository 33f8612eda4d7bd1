import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import { settledWithin } from '../in-time.js';
import { abandonVm } from './abandon-vm.js';
import type { DestinationContext } from './destination-context.js';

/** How long the end of the migration waits for the VM's `abandon`. Milliseconds. */
const ABANDON_MS = 1000;

/**
 * Ends an incoming migration that has failed in any phase: tells the source why, closes every stream, and abandons the VM, which
 * will never run, once nothing touches its memory. Resolves with the first cause.
 */
export async function rollBack(context: DestinationContext, cause: unknown): Promise<GodwitError> {
  const { session, ownership, arriving } = context;
  const first: unknown = session.signal.aborted && !ownership.mayRunGuest ? session.end.cause : cause;
  const error = GodwitError.wrap(first, 'GODWIT_INTERNAL', 'the migration failed at the destination');
  if (ownership.allows('fail')) ownership.apply('fail');
  // The source is told over the present connection, if there is one; a source that reconnects is told by the router.
  session.end.set(error);
  arriving?.loader.fail(error);
  session.closeReturns(error);
  const read = (await session.current?.close(error)) ?? false;
  session.told = error.remote || (read && !session.linkLost);
  const { vm } = context;
  // After this nothing touches memory that the embedder may free, and pages that are still missing are marked, so that nothing reads
  // zeros in them.
  await context.servingMissing;
  await context.missing?.end();
  context.vm = undefined;
  if (ownership.state === 'abandoned') await abandonOnceQuiet(context, vm, error);
  context.claim?.end();
  return error;
}

/**
 * Abandons the VM once no device is loading, since a load may write guest memory. The end of the migration waits at most `ABANDON_MS`
 * for it; the VM stays claimed until then.
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
    return abandonVm(context, vm, error, claim);
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
