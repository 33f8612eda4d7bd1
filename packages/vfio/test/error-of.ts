import { type ErrorCode, GodwitError } from '@godwit/core';

/** The GodwitError that `action` throws or rejects with; fails when it does not. */
export async function errorOf(action: () => unknown): Promise<GodwitError & { code: ErrorCode }> {
  try {
    await action();
  } catch (error) {
    if (GodwitError.is(error)) return error;
    throw error;
  }
  throw new Error('expected a GodwitError, but nothing was thrown');
}
