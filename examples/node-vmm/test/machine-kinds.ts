import {
  hasKvm,
  Machine,
  type MachineConfig,
  type MachineKind,
  SoftwareMachine,
  type VirtualMachine,
} from '@godwit/example-node-vmm';
import { hostSupport } from '@godwit/linux';
import { test } from '@jest/globals';

/** A kind of machine, and `test` for it: skipped, with the reason, where the host cannot run it. */
export interface KindUnderTest {
  readonly kind: MachineKind;
  create(config: MachineConfig): Promise<VirtualMachine>;
  fromDescription(description: unknown): Promise<VirtualMachine>;
  test(name: string, run: () => Promise<void>, timeoutMs?: number): void;
}

const support = hostSupport();

/** Why tests of KVM machines cannot run here; undefined when they can. */
export const NO_KVM: string | undefined = hasKvm() ? undefined : support.kvm.usable ? 'no KVM' : support.kvm.reason;

export function testUnless(obstacle: string | undefined): KindUnderTest['test'] {
  return (name, run, timeoutMs = 60_000) => {
    if (obstacle === undefined) test(name, run, timeoutMs);
    else test.skip(`${name} (skipped: ${obstacle.replaceAll(/[()]/g, '')})`, run);
  };
}

export const KVM: KindUnderTest = {
  kind: 'kvm',
  create: (config) => Machine.create(config),
  fromDescription: (description) => Machine.fromDescription(description),
  test: testUnless(NO_KVM),
};

export const SOFTWARE: KindUnderTest = {
  kind: 'software',
  create: (config) => SoftwareMachine.create(config),
  fromDescription: (description) => SoftwareMachine.fromDescription(description),
  test: testUnless(undefined),
};

export const KINDS: readonly KindUnderTest[] = [KVM, SOFTWARE];
