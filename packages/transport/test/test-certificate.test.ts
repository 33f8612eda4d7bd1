import { X509Certificate } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import { testCertificate } from '@godwit/transport/testing';
import { expect, test } from '@jest/globals';

test('a certificate of any length can be used', () => {
  // One in 48 bytes of DER fills its last line of text.
  for (let length = 1; length <= 50; length++) {
    const { cert, key, name } = testCertificate('x'.repeat(length));
    expect(new X509Certificate(cert).subject).toBe(`CN=${name}`);
    expect(() => createSecureContext({ cert, key })).not.toThrow();
  }
});
