import net from 'node:net';
import type tls from 'node:tls';
import { checkOptions, GodwitError } from '@godwit/core';

/** PEM text or its bytes, as `node:tls` takes them; several of them for a chain or for more than one authority. */
export type Pem = string | Uint8Array | readonly (string | Uint8Array)[];

/**
 * This side's identity and the peers that it trusts: certificates (`ca`, `cert`, `key`), or a key that both sides share
 * (`psk`).
 */
export interface TlsCredentials {
  /**
   * The authorities that may have signed the peer's certificate. The system's own authorities are never used: anyone
   * can get a certificate of a public authority, and a listener must know its source.
   */
  readonly ca?: Pem;
  /** This side's certificate, followed by the intermediate ones. */
  readonly cert?: Pem;
  /** The private key of `cert`. */
  readonly key?: string | Uint8Array;
  /** The passphrase with which `key` is encrypted. */
  readonly passphrase?: string;
  /** The name that the listener's certificate must have. Default: the host to which this side connects. */
  readonly servername?: string;
  /** A key instead of certificates. TLS 1.3 only; every peer that has the key is trusted. */
  readonly psk?: PreSharedKey;
  /** The oldest version that is accepted. Default: `TLSv1.3`. */
  readonly minVersion?: 'TLSv1.2' | 'TLSv1.3';
}

export const CREDENTIALS: Readonly<Record<keyof TlsCredentials, true>> = {
  ca: true,
  cert: true,
  key: true,
  passphrase: true,
  servername: true,
  psk: true,
  minVersion: true,
};

/** A key that both sides have, instead of certificates. */
export interface PreSharedKey {
  /** The name of the key, which is sent unencrypted. At most 128 bytes (RFC 4279). */
  readonly identity: string;
  /** From 16 to 64 random bytes. A password is not enough: it can be guessed from a recorded handshake. */
  readonly key: Uint8Array;
}

const SHORTEST_KEY = 16;
const LONGEST_KEY = 64;
const LONGEST_IDENTITY = 128;

/** Throws `GODWIT_INVALID_ARGUMENT`, whose message says what is missing. */
export function checkCredentials(credentials: TlsCredentials): void {
  const { ca, cert, key, psk, minVersion } = credentials;
  if (psk === undefined) {
    const missing = Object.entries({ ca, cert, key }).filter(([, value]) => value === undefined || value.length === 0);
    if (missing.length === 0) return;
    throw invalid(
      `TLS needs ca, cert and key (or psk); ${missing.map(([name]) => name).join(' and ')} missing. ` +
        'Both sides show a certificate, and each checks that one of its ca has signed the other',
    );
  }
  if (ca !== undefined || cert !== undefined || key !== undefined) {
    throw invalid('TLS takes either psk or ca, cert and key, not both: the weaker one would decide');
  }
  checkOptions<PreSharedKey>('psk', psk, { identity: true, key: true });
  if (minVersion === 'TLSv1.2') throw invalid('psk needs TLS 1.3; leave minVersion out');
  if (psk.key.length < SHORTEST_KEY || psk.key.length > LONGEST_KEY) {
    throw invalid(`a pre-shared key has ${SHORTEST_KEY} to ${LONGEST_KEY} random bytes, this one ${psk.key.length}`);
  }
  const identityBytes = Buffer.byteLength(psk.identity);
  if (identityBytes === 0 || identityBytes > LONGEST_IDENTITY) {
    throw invalid(`the identity of a pre-shared key has 1 to ${LONGEST_IDENTITY} bytes, this one ${identityBytes}`);
  }
}

/** The options of a listener for `tls.createServer` or `https.createServer`. */
export function serverOptions(credentials: TlsCredentials): tls.TlsOptions {
  const { psk } = credentials;
  if (psk === undefined) return { ...common(credentials), requestCert: true, rejectUnauthorized: true };
  return {
    ...common(credentials),
    pskCallback: (_socket, identity) => (identity === psk.identity ? Buffer.from(psk.key) : null),
  };
}

/** The options of a source for `tls.connect`; `host` is the name that is checked unless `servername` is given. */
export function clientOptions(credentials: TlsCredentials, host: string): tls.ConnectionOptions {
  const { psk, servername } = credentials;
  if (psk === undefined) {
    // An address is no server name (RFC 6066), but the certificate is checked for it nevertheless.
    const name = servername ?? (net.isIP(host) === 0 ? host : undefined);
    return { ...common(credentials), rejectUnauthorized: true, host, ...(name !== undefined && { servername: name }) };
  }
  return {
    ...common(credentials),
    rejectUnauthorized: true,
    pskCallback: () => ({ identity: psk.identity, psk: psk.key }),
    // Without any authority, a listener that shows a certificate instead of knowing the key is refused.
    ca: [],
    checkServerIdentity: (_name, certificate) =>
      Object.keys(certificate).length === 0 ? undefined : new Error('the listener shows a certificate and not the key'),
  };
}

function common(credentials: TlsCredentials): tls.SecureContextOptions {
  const { ca, cert, key, passphrase, minVersion = 'TLSv1.3' } = credentials;
  return {
    minVersion,
    ...(ca !== undefined && { ca: pem(ca) }),
    ...(cert !== undefined && { cert: pem(cert) }),
    ...(key !== undefined && { key: pem(key) as string | Buffer }),
    ...(passphrase !== undefined && { passphrase }),
  };
}

function pem(value: Pem): string | Buffer | (string | Buffer)[] {
  const one = (item: string | Uint8Array): string | Buffer => (typeof item === 'string' ? item : Buffer.from(item));
  return Array.isArray(value) ? value.map(one) : one(value as string | Uint8Array);
}

function invalid(message: string): GodwitError {
  return new GodwitError('GODWIT_INVALID_ARGUMENT', message);
}
