import { existsSync, readdirSync } from 'node:fs';
import { hostSupport } from '@godwit/linux';
import { expect, test } from '@jest/globals';

test('every feature is usable or says why not', () => {
  const support = hostSupport();
  for (const [name, feature] of Object.entries(support)) {
    if (feature.usable) continue;
    process.stderr.write(`${name}: ${feature.reason}\n`);
    expect(feature.reason.length).toBeGreaterThan(10);
  }
  if (!existsSync('/dev/kvm')) expect(support.kvm.usable).toBe(false);
  if (support.asyncWriteProtect.usable) expect(support.userfaultfd.usable).toBe(true);
});

test('probing leaves no descriptor open', () => {
  hostSupport();
  const before = readdirSync('/proc/self/fd').length;
  for (let i = 0; i < 20; i++) hostSupport();
  expect(readdirSync('/proc/self/fd').length).toBe(before);
});
