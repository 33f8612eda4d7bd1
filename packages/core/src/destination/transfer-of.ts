import type { Transfer } from '../ownership/ownership-authority.js';
import type { Arriving } from './destination-context.js';

/** The hand-over that the authority is asked about. */
export function transferOf({ hello, attempt, welcome }: Arriving): Transfer {
  return { migrationId: hello.migrationId, attempt, incarnation: welcome.incarnation };
}
