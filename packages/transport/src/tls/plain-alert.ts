import type net from 'node:net';

/** A fatal alert `protocol_version` in a record of its own (RFC 8446, sections 5.1 and 6), not encrypted. */
const ALERT = Uint8Array.of(0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x46);

/** The `upgrade` header (RFC 2817, section 4.2) of the answer to an HTTP request at a port of `tls(...)`. */
const TLS_ALONE = 'TLS/1.3';

/** The `upgrade` header of the answer at a port of `wss:`, which expects HTTP inside TLS. */
const TLS_BELOW_HTTP = 'TLS/1.3, HTTP/1.1';

/**
 * Tells a peer whose first bytes are not TLS that this port expects TLS: an HTTP client by status 426 and an `upgrade` header, any other by
 * a TLS alert. OpenSSL only closes such a connection, which a source would take for a lost link and try again.
 *
 * @param inside what this port speaks inside TLS
 */
export function tellPlainPeer(error: NodeJS.ErrnoException, raw: net.Socket, inside: 'frames' | 'http'): void {
  if (raw.destroyed) return;
  const answer = answerTo(error, inside);
  if (answer === undefined) return;
  raw.on('error', () => undefined);
  raw.write(answer);
}

function answerTo({ code }: NodeJS.ErrnoException, inside: 'frames' | 'http'): Uint8Array | string | undefined {
  if (code === 'ERR_SSL_WRONG_VERSION_NUMBER') return ALERT;
  if (code !== 'ERR_SSL_HTTP_REQUEST') return undefined;
  const upgrade = inside === 'http' ? TLS_BELOW_HTTP : TLS_ALONE;
  return `HTTP/1.1 426 Upgrade Required\r\nupgrade: ${upgrade}\r\nconnection: upgrade, close\r\ncontent-length: 0\r\n\r\n`;
}

/** What an answer with status 426 says about its port: TLS alone, TLS with HTTP inside, or nothing about TLS. */
export function tlsWanted(upgrade: string | undefined): 'frames' | 'http' | undefined {
  if (!/\bTLS\b/i.test(upgrade ?? '')) return undefined;
  return /\bHTTP\b/i.test(upgrade ?? '') ? 'http' : 'frames';
}
