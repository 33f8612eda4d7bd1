import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { absoluteUri, transportOf } from '../../dist/vmm/transport-of.js';

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-transport-of-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

test.each([
  ['unix:move.sock', 'unix:/home/x/move.sock'],
  ['unix:/run/move.sock', 'unix:/run/move.sock'],
  ['unix:///run/move.sock', 'unix:/run/move.sock'],
  ['file:../guest.snap', 'file:/home/guest.snap'],
  ['tcp:host:1', 'tcp:host:1'],
  ['exec:./there', 'exec:./there'],
])('%s, seen from /home/x, is %s', (uri, absolute) => {
  expect(absoluteUri(uri, '/home/x')).toBe(absolute);
});

test('certificates and keys are for transports that use them', async () => {
  await expect(transportOf('tcp:host:1', { tls: { ca: 'x' } })).rejects.toMatchObject({
    code: 'GODWIT_INVALID_ARGUMENT',
    message: expect.stringContaining('"tcp:host:1" would not use them'),
  });
  for (const [uri, near] of [
    ['tsl:host:1', 'tls:'],
    ['ws://host:1/', 'wss:'],
  ]) {
    await expect(transportOf(uri as string, { tls: { ca: 'x' } })).rejects.toMatchObject({
      message: expect.stringContaining(`"${uri}" would not use them; did you mean "${near}"?`),
    });
  }
  await expect(transportOf('tls:host:1')).rejects.toMatchObject({ code: 'GODWIT_INVALID_ARGUMENT' });
});

test('a key is one line, with at least 16 bytes', async () => {
  const psk = join(folder, 'key.psk');
  for (const [text, told] of [
    ['guest-move:00112233445566778899aabbccddeeff\n', undefined],
    ['guest-move:0011\n', 'random bytes'],
    ['guest-move\n', 'identity:hex digits'],
    ['guest-move:xyz\n', 'identity:hex digits'],
  ] as const) {
    writeFileSync(psk, text);
    const made = transportOf('tls:127.0.0.1:1', { tls: { psk } });
    if (told === undefined) await expect(made).resolves.toBeDefined();
    else
      await expect(made).rejects.toMatchObject({
        code: 'GODWIT_INVALID_ARGUMENT',
        message: expect.stringContaining(told),
      });
  }
  await expect(transportOf('tls:127.0.0.1:1', { tls: { psk: join(folder, 'none') } })).rejects.toMatchObject({
    message: expect.stringContaining('ENOENT'),
  });
});
