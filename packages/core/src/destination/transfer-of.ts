import type { Transfer } from '../ownership/ownership-authority.js';
import type { Arriving } from './destination-context.js';

/** The transfer that the ownership authority is asked about. */
export function transferOf({ hello, attempt, welcome }: Arriving): Transfer {
  return { migrationId: hello.migrationId, attempt, incarnation: welcome.incarnation };
}
