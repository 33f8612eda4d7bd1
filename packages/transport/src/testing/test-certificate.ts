import { createSign, generateKeyPairSync, type KeyObject, randomBytes } from 'node:crypto';
import { checkOptions } from '@godwit/core';

/** A certificate made for a test, with its private key. */
export interface TestCertificate {
  readonly cert: string;
  readonly key: string;
  readonly name: string;
  readonly privateKey: KeyObject;
}

/** Options of `testCertificate`. */
export interface CertificateOptions {
  /** The authority that signs the certificate; without one the certificate signs itself and is an authority. */
  readonly signer?: TestCertificate;
  /** Names and addresses for which the certificate is valid. */
  readonly hosts?: readonly string[];
  readonly notBefore?: Date;
  readonly notAfter?: Date;
}

const DAY_MS = 86_400_000;
const ECDSA_WITH_SHA256 = tlv(0x30, oid(1, 2, 840, 10_045, 4, 3, 2));

/**
 * Makes an X.509 v3 certificate (RFC 5280) with a P-256 key, so that the tests need no openssl command.
 *
 * @example
 * const authority = testCertificate('authority');
 * const { cert, key } = testCertificate('vm-host', { signer: authority, hosts: ['127.0.0.1'] });
 */
export function testCertificate(name: string, options: CertificateOptions = {}): TestCertificate {
  checkOptions<CertificateOptions>('testCertificate', options, {
    signer: true,
    hosts: true,
    notBefore: true,
    notAfter: true,
  });
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const { signer, hosts = [] } = options;
  const notBefore = options.notBefore ?? new Date(Date.now() - DAY_MS);
  const notAfter = options.notAfter ?? new Date(Date.now() + DAY_MS);
  const extensions = [
    extension(oid(2, 5, 29, 19), tlv(0x30, ...(signer === undefined ? [tlv(0x01, byte(0xff))] : []))),
  ];
  if (hosts.length > 0) extensions.push(extension(oid(2, 5, 29, 17), tlv(0x30, ...hosts.map(alternativeName))));
  const toBeSigned = tlv(
    0x30,
    tlv(0xa0, tlv(0x02, byte(2))),
    tlv(0x02, Buffer.concat([byte(1), randomBytes(8)])),
    ECDSA_WITH_SHA256,
    commonName(signer?.name ?? name),
    tlv(0x30, time(notBefore), time(notAfter)),
    commonName(name),
    publicKey.export({ type: 'spki', format: 'der' }),
    tlv(0xa3, tlv(0x30, ...extensions)),
  );
  const signature = createSign('sha256')
    .update(toBeSigned)
    .sign(signer?.privateKey ?? privateKey);
  const der = tlv(0x30, toBeSigned, ECDSA_WITH_SHA256, tlv(0x03, byte(0), signature));
  return {
    name,
    privateKey,
    // The text must not end with an empty line, which OpenSSL would take for the end.
    cert: `-----BEGIN CERTIFICATE-----\n${der
      .toString('base64')
      .match(/.{1,64}/g)
      ?.join('\n')}\n-----END CERTIFICATE-----\n`,
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
  };
}

/** Tag, length and value, the only structure of DER. */
function tlv(tag: number, ...parts: Uint8Array[]): Buffer {
  const value = Buffer.concat(parts);
  const length =
    value.length < 0x80
      ? [value.length]
      : value.length < 0x100
        ? [0x81, value.length]
        : [0x82, value.length >> 8, value.length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...length]), value]);
}

function byte(value: number): Buffer {
  return Buffer.from([value]);
}

function oid(first: number, second: number, ...rest: number[]): Buffer {
  const bytes = [first * 40 + second];
  for (const arc of rest) {
    const groups = [arc & 0x7f];
    for (let left = arc >> 7; left > 0; left >>= 7) groups.unshift((left & 0x7f) | 0x80);
    bytes.push(...groups);
  }
  return tlv(0x06, Buffer.from(bytes));
}

function extension(id: Buffer, value: Buffer): Buffer {
  return tlv(0x30, id, tlv(0x04, value));
}

function alternativeName(host: string): Buffer {
  const address = /^(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(host);
  return address === null ? tlv(0x82, Buffer.from(host)) : tlv(0x87, Buffer.from(address.slice(1).map(Number)));
}

function commonName(name: string): Buffer {
  return tlv(0x30, tlv(0x31, tlv(0x30, oid(2, 5, 4, 3), tlv(0x0c, Buffer.from(name)))));
}

function time(date: Date): Buffer {
  return tlv(0x18, Buffer.from(`${date.toISOString().replace(/[-:T]/g, '').slice(0, 14)}Z`));
}
