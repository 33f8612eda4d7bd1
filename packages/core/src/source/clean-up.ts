import { settledWithin } from '../in-time.js';
import { CLOSING_MS } from '../session/closing-message.js';
import type { SourceContext } from './source-context.js';

/** How long devices may take to let go of their state when it is over: a change of state in hardware, and some. */
const RELEASE_MS = 5000;

/**
 * Stops the trackers, does `between`, and lets devices go of their state: each for a bounded time. What has not returned by then is
 * reported, and is the claim's until it does.
 */
export async function letGo(context: SourceContext, between: () => Promise<void>): Promise<void> {
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
  // Not behind a call that hangs: letting go may be what ends it.
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
