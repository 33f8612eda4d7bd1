import { settledWithin } from '../in-time.js';
import { CLOSING_MS } from '../session/closing-message.js';
import type { SourceContext } from './source-context.js';

/** Tells the destination that it has the only copy now, and ends the connection. */
export async function sayReleased({ session, options }: SourceContext): Promise<void> {
  const control = session.current?.control;
  session.phase = 'release';
  if (control !== undefined) await settledWithin(control.write({ type: 'released' }), options.clock, CLOSING_MS);
  await session.close(undefined);
}
