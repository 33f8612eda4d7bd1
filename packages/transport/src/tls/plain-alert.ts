import type net from 'node:net';

/** A fatal alert `protocol_version` in a record of its own (RFC 8446, sections 5.1 and 6), not encrypted. */
const ALERT = Uint8Array.of(0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x46);

/**
 * Tells a peer whose first bytes are not TLS that this port expects TLS. OpenSSL only closes such a connection, which a source that
 * speaks plain TCP would take for a lost link.
 */
export function tellPlainPeer(error: NodeJS.ErrnoException, raw: net.Socket): void {
  if (error.code !== 'ERR_SSL_WRONG_VERSION_NUMBER' || raw.destroyed) return;
  raw.on('error', () => undefined);
  raw.write(ALERT);
}
