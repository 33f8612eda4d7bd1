import type { Support } from '@godwit/linux';
import { test } from '@jest/globals';

type DeclareTest = (name: string, run: () => void | Promise<void>) => void;

/** `test` where the host can run it; otherwise tests that are skipped, with the reason in their names. */
export function testWhen(...needs: readonly Support[]): DeclareTest {
  for (const need of needs) {
    if (!need.usable) return (name, run) => test.skip(`${name} (skipped: ${need.reason})`, run);
  }
  return (name, run) => test(name, run);
}
