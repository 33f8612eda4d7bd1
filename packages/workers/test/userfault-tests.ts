import { hostSupport } from '@godwit/linux';
import { afterEach, test } from '@jest/globals';

const { userfaultfdKernelFaults } = hostSupport();

/** A test that needs page faults of the kernel to be told; where they cannot be, it is skipped and says why. */
export const testFaults: (name: string, run: () => Promise<void>) => void = userfaultfdKernelFaults.usable
  ? test
  : (name, run) => test.skip(`${name} (skipped: ${userfaultfdKernelFaults.reason})`, run);

/** What is done after each test of the file that calls this, the last one first. */
export function endings(): (() => unknown)[] {
  const ending: (() => unknown)[] = [];
  afterEach(async () => {
    for (const end of ending.splice(0).reverse()) await end();
  });
  return ending;
}
