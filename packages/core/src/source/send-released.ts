import { settledWithin } from '../in-time.js';
import { CLOSING_MS } from '../session/closing-message.js';
import type { SourceContext } from './source-context.js';

/** Sends `released`, which tells the destination that it has the only copy of the guest, and closes the connection. */
export async function sendReleased({ session, options }: SourceContext): Promise<void> {
  const control = session.current?.control;
  session.phase = 'release';
  if (control !== undefined) await settledWithin(control.write({ type: 'released' }), options.clock, CLOSING_MS);
  await session.close(undefined);
}
