import type { Claim } from '../claim/claim.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import type { DestinationContext } from './destination-context.js';

/**
 * Calls the VM's `abandon`: it will never run here, and its embedder may free it, with its memory. A failure is reported, not thrown.
 * `claim`: that of this VM, if it was taken.
 */
export async function abandonVm(
  { emit }: DestinationContext,
  vm: MigratableVm | undefined,
  reason: Error,
  claim?: Claim,
): Promise<void> {
  claim?.letGo();
  try {
    await vm?.abandon?.(reason);
  } catch (error) {
    emit({
      type: 'warning',
      code: 'GODWIT_VM_FAILED',
      message: `the VM that will not run could not be abandoned: ${String(error)}`,
    });
  }
}
