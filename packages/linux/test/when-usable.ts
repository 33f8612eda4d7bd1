import { test } from '@jest/globals';
import type { Support } from '@godwit/linux';

/** `test` where the host can run it; otherwise tests that are skipped, with the reason on stderr. */
export function testWhen(...needs: readonly Support[]): typeof test | typeof test.skip {
  for (const need of needs) {
    if (need.usable) continue;
    process.stderr.write(`skipped, because this host cannot: ${need.reason}\n`);
    return test.skip;
  }
  return test;
}
