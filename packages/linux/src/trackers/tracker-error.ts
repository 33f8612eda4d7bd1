import { GodwitError } from '@godwit/core/errors';

/** The error of a tracker that has failed while it ran: everything counts as dirty from then on. */
export function trackerFailed(tracker: string, doing: string, cause: unknown): GodwitError {
  const detail = cause instanceof Error ? cause.message : String(cause);
  return new GodwitError('GODWIT_TRACKER_FAILED', `dirty tracker ${tracker} failed to ${doing}: ${detail}`, { cause });
}
