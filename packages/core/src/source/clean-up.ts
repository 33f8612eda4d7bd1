import { settledWithin } from '../in-time.js';
import { CLOSING_MS } from '../session/closing-message.js';
import type { SourceContext } from './source-context.js';

/** How long the devices' `release` may take: enough for a device to change its state in hardware. Milliseconds. */
const RELEASE_MS = 5000;

/**
 * Cleans up at the end of a migration: stops the trackers, runs `between`, and releases the devices, each within a time limit. A
 * tracker that has not stopped by then is reported; the VM stays claimed until every call has returned.
 */
export async function cleanUp(context: SourceContext, between: () => Promise<void>): Promise<void> {
  const { harvester, claim, tracker } = context;
  // A pending harvest takes bits out of the trackers, which the next migration of this VM would miss: the claim is kept until it
  // has ended.
  if (harvester.pending !== undefined)
    claim.keepUntil(harvester.pending, `harvest() of the dirty tracker "${tracker.name}"`);
  await stopTracking(context);
  await between();
  await releaseDevices(context);
}

async function stopTracking({ tracker, claim, options, emit }: SourceContext): Promise<void> {
  let stopped = false;
  const stopping = tracker.stop().then(() => {
    stopped = true;
  });
  claim.keepUntil(stopping, `stop() of the dirty tracker "${tracker.name}"`);
  await settledWithin(stopping, options.clock, CLOSING_MS);
  if (stopped) return;
  emit({
    type: 'warning',
    code: 'GODWIT_TRACKER_FAILED',
    message: `the dirty tracker "${tracker.name}" has not stopped within ${CLOSING_MS} ms; the guest may go on paying for it`,
  });
}

async function releaseDevices({ devices, claim, options, emit }: SourceContext): Promise<void> {
  const { calls } = devices;
  const [busy] = calls.busy;
  if (busy !== undefined) claim.keepUntil(calls.idle(), busy);
  // `release` does not wait for a pending call of the device, which it may end.
  const releasing = calls.release((device, error) =>
    emit({
      type: 'warning',
      code: 'GODWIT_DEVICE_FAILED',
      message: `device "${device.id}" could not let go of its state: ${error instanceof Error ? error.message : String(error)}`,
    }),
  );
  claim.keepUntil(releasing, 'release() of the devices');
  await settledWithin(releasing, options.clock, RELEASE_MS);
}
