import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Listener } from '@godwit/transport';
import { transportSuite } from '@godwit/transport/testing';
import { describe, expect, jest, test } from '@jest/globals';
import { plainTcp } from './thirty-lines.js';

jest.setTimeout(30_000);

transportSuite(
  'the transport of docs/write-a-transport.md',
  { describe, test },
  {
    listen: () => plainTcp(0).listen(),
    connect: (listener, signal) => plainTcp((listener as Listener & { port: number }).port).connect(signal),
    tellsAbort: false,
    mostHeld: 32 * 2 ** 20,
    capabilities: { shortConnections: 100 },
  },
);

test('docs/write-a-transport.md shows the transport that is tested here', () => {
  const root = join(import.meta.dirname, '..', '..', '..');
  const source = readFileSync(join(root, 'packages', 'transport', 'test', 'thirty-lines.ts'), 'utf8');
  expect(readFileSync(join(root, 'docs', 'write-a-transport.md'), 'utf8')).toContain(`\`\`\`ts\n${source}\`\`\`\n`);
});
