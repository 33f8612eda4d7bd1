import { GodwitError, quoted } from '@godwit/core';

/** Returns `host`, or `127.0.0.1` where it is left out; throws `GODWIT_INVALID_ARGUMENT` unless it is text. */
export function hostName(host: unknown): string {
  if (host === undefined) return '127.0.0.1';
  if (typeof host === 'string' && host !== '') return host;
  throw new GodwitError('GODWIT_INVALID_ARGUMENT', `host must be a name or an address, got ${quoted(host)}`);
}

/** Returns `port`; throws `GODWIT_INVALID_ARGUMENT` unless it is a port number. */
export function portNumber(port: unknown): number {
  if (typeof port === 'number' && Number.isInteger(port) && port >= 0 && port <= 65535) return port;
  throw new GodwitError('GODWIT_INVALID_ARGUMENT', `a TCP port is an integer from 0 to 65535, got ${quoted(port)}`);
}
