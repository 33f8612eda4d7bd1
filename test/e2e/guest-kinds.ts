import { accessSync, constants } from 'node:fs';
import { describe } from '@jest/globals';

function kvmProblem(): string | undefined {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** Runs a suite with a KVM guest and with the software guest; prints a message if there is no KVM. */
export function forBothGuests(suite: (options: readonly string[], kind: 'kvm' | 'software') => void): void {
  forKvm((options) => suite(options, 'kvm'));
  describe('without KVM', () => suite(['--no-kvm'], 'software'));
}

export function forKvm(suite: (options: readonly string[]) => void): void {
  const problem = kvmProblem();
  if (problem === undefined) describe('with KVM', () => suite([]));
  else describe.skip(`with KVM (skipped: ${problem})`, () => suite([]));
}
