import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { PayloadTarget } from '@godwit/core';
import { frameStream, tcp } from '@godwit/transport';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'godwit-payload-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

describe.each([false, true])('a payload, with checksums: %s', (checksums) => {
  test('goes into memory and into files, part by part, to the last byte', async () => {
    const listener = await tcp({ port: 0 }).listen();
    const accepted = listener.accept();
    const near = frameStream(await tcp({ port: listener.port }).connect(), { checksums });
    const far = frameStream(await accepted);
    const file = join(directory, 'memory');
    const fd = openSync(file, 'w+');
    let sent = 0;
    try {
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.record({ length: fc.integer({ min: 1, max: 200_000 }), toFile: fc.boolean() }), {
            minLength: 1,
            maxLength: 6,
          }),
          async (parts) => {
            const total = parts.reduce((sum, { length }) => sum + length, 0);
            const payload = Uint8Array.from({ length: total }, (_, i) => (i * 31 + sent) & 255);
            sent++;
            const writing = near.write({ type: 'pages', round: 1, block: 0, runs: [0, 1] }, [payload]);
            expect(far.takesFiles).toBe(true);
            expect(await far.read()).toMatchObject({ payloadBytes: total });
            let at = 0;
            const into = parts.map(({ length, toFile }): PayloadTarget => {
              // Apart in the file, and each somewhere else than in the payload.
              const target = toFile ? { fd, position: at * 2 + 7, length } : new Uint8Array(length);
              at += length;
              return target;
            });
            await far.readPayload(into);
            await writing;
            const contents = readFileSync(file);
            at = 0;
            for (const target of into) {
              const expected = payload.subarray(at, at + target.length);
              const got =
                target instanceof Uint8Array
                  ? target
                  : contents.subarray(target.position, target.position + target.length);
              expect(Buffer.compare(got, expected)).toBe(0);
              at += target.length;
            }
          },
        ),
        { numRuns: 40 },
      );
      await expect(
        (async () => {
          void near.write({ type: 'pages', round: 1, block: 0, runs: [0, 1] }, [new Uint8Array(100)]);
          await far.read();
          await far.readPayload([{ fd, position: 0, length: 99 }]);
        })(),
      ).rejects.toMatchObject({ code: 'GODWIT_INVALID_ARGUMENT' });
      await far.skipPayload();
      await Promise.all([near.close(), far.close()]);
    } finally {
      closeSync(fd);
      await listener.close();
    }
  });
});
