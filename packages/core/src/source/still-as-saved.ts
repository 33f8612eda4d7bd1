import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import type { TrackerUnion } from '../tracker/tracker-union.js';
import type { Harvest } from './harvester.js';

/**
 * Checks that the last harvest before the hand-over is empty. Throws `GODWIT_TRACKER_FAILED` when a tracker failed, so that the
 * harvest proves nothing, and `GODWIT_VM_FAILED` when a page was written after the guest was paused and its devices were saved.
 */
export function stillAsSaved(vm: MigratableVm, tracker: TrackerUnion, after: Harvest): void {
  if (tracker.failed) {
    throw new GodwitError(
      'GODWIT_TRACKER_FAILED',
      'a dirty tracker failed just before the hand-over, so whether memory was written after it was sent is not known; the guest stays at the source',
    );
  }
  if (!tracker.surelyWritten) return;
  const [index] = after.fresh.blocks
    .map((bitmap, i) => ({ page: bitmap.nextDirty(0), i }))
    .filter(({ page }) => page !== -1);
  throw new GodwitError(
    'GODWIT_VM_FAILED',
    `${after.freshPages} pages were written after the guest was paused and its devices saved ` +
      `(first: ${vm.memory.blocks[index?.i ?? 0]?.id} page ${index?.page}); pause() must stop every writer of guest memory`,
  );
}
