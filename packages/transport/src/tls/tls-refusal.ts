import { explainAll, mayPass } from '../stream/connect-failure.js';

/**
 * Explains a failed handshake and what can be done, from the point of view of `side`, which has refused or was refused. The code
 * of Node or OpenSSL stays in the message.
 */
export function explainHandshake(error: NodeJS.ErrnoException, side: 'listener' | 'source'): string {
  const code = error.code ?? error.message;
  // OpenSSL 3.5 (Node 24) has other names for the alerts of SSL 3.
  const known = code.replace('_SSL/TLS_ALERT_', '_SSLV3_ALERT_');
  const hint = (side === 'listener' ? AT_LISTENER : AT_SOURCE).get(known) ?? AT_BOTH.get(known);
  if (hint !== undefined) return `${hint} (${code})`;
  if (CERTIFICATE_CODE.test(code)) {
    return `the peer's certificate is not accepted: ${error.message} (${code})`;
  }
  // OpenSSL's own messages have addresses and file names of its sources, which are removed.
  const reason = /SSL routines:[^:]*:([^:]+)/.exec(error.message)?.[1];
  return reason === undefined ? explainAll(error) : `${reason} (${code})`;
}

/** The side whose certificate made a handshake fail, for the side that connects; `undefined` for any other reason. */
export function refusedCertificate({ code = '' }: NodeJS.ErrnoException): 'ours' | 'theirs' | undefined {
  if (CERTIFICATE_CODE.test(code) || code === 'ERR_TLS_CERT_ALTNAME_INVALID') return 'theirs';
  return /_ALERT_(UNKNOWN_CA|.*CERTIFICATE)/.test(code) ? 'ours' : undefined;
}

/** Codes with which OpenSSL and Node refuse a peer's certificate. */
const CERTIFICATE_CODE = /^(CERT_|UNABLE_|SELF_|DEPTH_|INVALID_|HOSTNAME_|CRL_|ERROR_IN_CERT)/;

/** Whether another handshake may succeed: not where a certificate, a key or a version is wrong, which OpenSSL's codes show. */
export function handshakeMayPass(error: NodeJS.ErrnoException): boolean {
  const { code } = error;
  if (code === undefined || code === 'ERR_TLS_HANDSHAKE_TIMEOUT') return true;
  // OpenSSL has found a mistake in the protocol.
  if (code === 'EPROTO') return false;
  return /^E(AI_)?[A-Z0-9]+$/.test(code) && mayPass(error);
}

const FOREIGN_CA = "the peer's certificate is not signed by any of the given ca; compare the authorities of both sides";

const AT_BOTH: ReadonlyMap<string, string> = new Map([
  ['CERT_HAS_EXPIRED', "the peer's certificate has expired; renew it, and compare the clocks of both hosts"],
  ['CERT_NOT_YET_VALID', "the peer's certificate is not valid yet; compare the clocks of both hosts"],
  ['DEPTH_ZERO_SELF_SIGNED_CERT', FOREIGN_CA],
  ['SELF_SIGNED_CERT_IN_CHAIN', FOREIGN_CA],
  ['UNABLE_TO_GET_ISSUER_CERT', FOREIGN_CA],
  ['UNABLE_TO_GET_ISSUER_CERT_LOCALLY', FOREIGN_CA],
  ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', FOREIGN_CA],
  ['CERT_SIGNATURE_FAILURE', FOREIGN_CA],
  ['INVALID_PURPOSE', "the peer's certificate is for another purpose; its extended key usage must allow this role"],
  ['ERR_SSL_UNSUPPORTED_PROTOCOL', 'the peer speaks only older versions of TLS; update it, or lower minVersion'],
  ['ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION', 'the peer accepts only other versions of TLS; compare minVersion'],
  ['ERR_SSL_SSLV3_ALERT_CERTIFICATE_EXPIRED', 'the peer refused our certificate, which has expired; renew it'],
  ['ERR_SSL_TLSV1_ALERT_UNKNOWN_CA', 'the peer refused our certificate: none of its ca has signed it'],
  ['ERR_SSL_SSLV3_ALERT_BAD_CERTIFICATE', 'the peer refused our certificate'],
]);

const AT_LISTENER: ReadonlyMap<string, string> = new Map([
  ['ERR_SSL_WRONG_VERSION_NUMBER', 'it does not speak TLS; connect with tls(...), not with tcp(...)'],
  ['ERR_SSL_HTTP_REQUEST', 'it speaks HTTP and not TLS; connect with tls(...), not with webSocket(...)'],
  [
    'ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE',
    'it shows no certificate; give it a cert and key that our ca has signed',
  ],
  ['ERR_SSL_BINDER_DOES_NOT_VERIFY', 'it has another pre-shared key; compare the keys of both sides'],
  ['ERR_SSL_NO_SUITABLE_SIGNATURE_ALGORITHM', 'it knows no pre-shared key of ours; give both sides the same psk'],
  ['ERR_SSL_NO_SHARED_CIPHER', 'no cipher in common; with psk, both sides need the same identity and key'],
  ['ERR_TLS_HANDSHAKE_TIMEOUT', 'it did not finish the TLS handshake within handshakeTimeoutMs'],
  ['ECONNRESET', 'it left during the TLS handshake; it may not accept our certificate: its own log says why'],
]);

const AT_SOURCE: ReadonlyMap<string, string> = new Map([
  [
    'ERR_SSL_WRONG_VERSION_NUMBER',
    'the listener does not speak TLS; let it listen with tls(...), or compare the ports',
  ],
  [
    'ERR_SSL_PACKET_LENGTH_TOO_LONG',
    'the listener does not speak TLS; let it listen with tls(...), or compare the ports',
  ],
  [
    'ERR_TLS_CERT_ALTNAME_INVALID',
    "the listener's certificate is for another host; connect to a name that it has, or set servername",
  ],
  ['ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED', 'the listener wants a certificate; set cert and key'],
  ['ERR_SSL_TLSV1_ALERT_DECRYPT_ERROR', 'the listener refused our pre-shared key; compare the keys of both sides'],
  ['ERR_SSL_SSLV3_ALERT_ILLEGAL_PARAMETER', 'the listener refused our pre-shared key; compare the keys of both sides'],
  [
    'ERR_SSL_SSLV3_ALERT_HANDSHAKE_FAILURE',
    'the listener found nothing in common: compare psk or certificates of both sides',
  ],
  [
    'ECONNRESET',
    'the listener closed the connection during the TLS handshake; it may not speak TLS, or its log may say why',
  ],
]);
