import { GodwitError } from '@godwit/core/errors';

/** The error of a tracker that was running: from here on nobody knows what is dirty. */
export function trackerFailed(tracker: string, doing: string, cause: unknown): GodwitError {
  const detail = cause instanceof Error ? cause.message : String(cause);
  return new GodwitError('GODWIT_TRACKER_FAILED', `dirty tracker ${tracker} failed to ${doing}: ${detail}`, { cause });
}
