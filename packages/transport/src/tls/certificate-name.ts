import { X509Certificate } from 'node:crypto';
import type tls from 'node:tls';
import type { Pem } from './tls-credentials.js';

const LONGEST_NAME = 100;

type Names = Readonly<Record<string, unknown>> | undefined;

/** A peer's certificate in words: `certificate CN=vm-host-2, issued by CN=our authority`. `undefined` where it has shown none. */
export function peerCertificateName(secure: tls.TLSSocket): string | undefined {
  const { subject, issuer } = (secure.getPeerCertificate() ?? {}) as unknown as { subject?: Names; issuer?: Names };
  return subject === undefined ? undefined : inWords(distinguishedName(subject), distinguishedName(issuer));
}

/** This side's own certificate in words; `undefined` where it cannot be read. */
export function ownCertificateName(cert: Pem | undefined): string | undefined {
  const first = Array.isArray(cert) ? cert[0] : cert;
  if (first === undefined) return undefined;
  try {
    const { subject, issuer } = new X509Certificate(first as string | Uint8Array);
    return inWords(oneLine(subject), oneLine(issuer));
  } catch {
    return undefined;
  }
}

/**
 * Notes the certificate that each peer of `server` shows, before Node verifies it: Node does not keep a certificate that it has refused.
 * `keylog` is the only public event of a handshake that has its socket; the keys that come with the event are not used.
 */
export function noteCertificates(server: tls.Server): (secure: tls.TLSSocket) => string | undefined {
  const names = new WeakMap<tls.TLSSocket, string>();
  const seen = new WeakSet<tls.TLSSocket>();
  server.on('keylog', (_keys, secure) => {
    if (seen.has(secure)) return;
    seen.add(secure);
    secure.prependOnceListener('secure', () => {
      const name = peerCertificateName(secure);
      if (name !== undefined) names.set(secure, name);
    });
  });
  return (secure) => names.get(secure);
}

function inWords(subject: string, issuer: string): string {
  return `certificate ${subject === '' ? '(without a name)' : subject}, ${subject === issuer ? 'signed by itself' : `issued by ${issuer}`}`;
}

function distinguishedName(names: Names): string {
  return oneLine(
    Object.entries(names ?? {})
      .map(([key, value]) => `${key}=${Array.isArray(value) ? value.join('+') : String(value)}`)
      .join(', '),
  );
}

/** Shortens a text from the peer to one line: it may be long and have any characters. */
function oneLine(text: string): string {
  const clean = text.replace(/\n/g, ', ').replace(/\p{C}/gu, '?');
  return clean.length > LONGEST_NAME ? `${clean.slice(0, LONGEST_NAME)}...` : clean;
}
