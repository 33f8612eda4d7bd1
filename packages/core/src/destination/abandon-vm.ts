import type { MigratableVm } from '../device/migratable-vm.js';
import type { DestinationContext } from './destination-context.js';

/** The VM will never run: its embedder may free what it holds. A failure is reported, not thrown. */
export async function abandonVm(
  { emit }: DestinationContext,
  vm: MigratableVm | undefined,
  reason: Error,
): Promise<void> {
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
