import dns from 'node:dns';
import net from 'node:net';
import { AddressRace, type Attempt } from './address-race.js';
import { cancelled, throwIfCancelled } from './cancellation.js';
import { connectFailure } from './connect-failure.js';

/** The destination: a host whose addresses are tried, or the path of a UNIX socket. */
export type Destination = { readonly host: string } | { readonly path: string };

export interface DialOptions {
  /** The peer's name, for messages. */
  readonly peer: string;
  /** The time limit for resolving the name and for all addresses together. Milliseconds. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal | undefined;
}

/**
 * Makes one connection. Fails with `GODWIT_CONNECT_FAILED`, whose message has every address that was tried and its reason, or
 * with the error of `signal`; no socket is left open then.
 */
export async function dial<T extends Attempt>(
  where: Destination,
  begin: (address: string) => T,
  { peer, timeoutMs, signal }: DialOptions,
): Promise<T> {
  const what = `connecting to ${peer}`;
  throwIfCancelled(signal, what);
  const race = new AddressRace(begin);
  let resolved = false;
  let ended = false;
  let timer: NodeJS.Timeout | undefined;
  let onAbort: (() => void) | undefined;
  try {
    return await new Promise<T>((resolve, reject) => {
      timer = setTimeout(() => {
        const error = resolved ? race.timedOut(timeoutMs) : unresolved(where, timeoutMs);
        reject(connectFailure(peer, error));
      }, timeoutMs);
      onAbort = () => signal && reject(cancelled(signal, what));
      signal?.addEventListener('abort', onAbort, { once: true });
      addressesOf(where)
        .then((addresses) => {
          // The name may be resolved after the call has ended.
          if (ended) throw new Error('nobody waits for this connection');
          resolved = true;
          return race.run(addresses);
        })
        .then(resolve, (error) => reject(connectFailure(peer, error)));
    });
  } catch (error) {
    race.drop();
    throw error;
  } finally {
    ended = true;
    clearTimeout(timer);
    if (onAbort !== undefined) signal?.removeEventListener('abort', onAbort);
  }
}

async function addressesOf(where: Destination): Promise<readonly string[]> {
  if ('path' in where) return [where.path];
  const { host } = where;
  if (net.isIP(host) !== 0) return [host];
  const found = await new Promise<readonly dns.LookupAddress[]>((resolve, reject) => {
    dns.lookup(host, { all: true, verbatim: true }, (error, addresses) => (error ? reject(error) : resolve(addresses)));
  });
  return byTurns(found);
}

/** The family that the resolver prefers first, then the other one, and so on (RFC 8305, section 4). */
function byTurns(found: readonly dns.LookupAddress[]): readonly string[] {
  const preferred = found.filter(({ family }) => family === found[0]?.family);
  const others = found.filter(({ family }) => family !== found[0]?.family);
  const most = Math.max(preferred.length, others.length);
  return Array.from({ length: most }, (_, at) => [preferred[at], others[at]])
    .flat()
    .flatMap((entry) => entry?.address ?? []);
}

function unresolved(where: Destination, timeoutMs: number): Error {
  const name = 'path' in where ? where.path : where.host;
  const message = `the name service has not answered for ${name} within connectTimeoutMs = ${timeoutMs}`;
  return Object.assign(new Error(message), { code: 'EAI_AGAIN' });
}
