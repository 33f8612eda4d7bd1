import { GodwitError, quoted } from '@godwit/core';

/** Returns `port`; throws `GODWIT_INVALID_ARGUMENT` unless it is a port number. */
export function portNumber(port: unknown): number {
  if (typeof port === 'number' && Number.isInteger(port) && port >= 0 && port <= 65535) return port;
  throw new GodwitError('GODWIT_INVALID_ARGUMENT', `a TCP port is an integer from 0 to 65535, got ${quoted(port)}`);
}
