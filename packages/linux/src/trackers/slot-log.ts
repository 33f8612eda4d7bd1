import { DirtyBitmap, GodwitError, PageRunList } from '@godwit/core/pages';
import { KVM_DIRTY_LOG, KvmDirtyLog as Kvm } from '../layouts/kvm-dirty-log.js';
import { StructBuffer } from '../layouts/struct-buffer.js';
import { addressOf, ioctl } from '../libc/index.js';
import type { KvmSlot } from './kvm-rearm.js';
import { trackerFailed } from './tracker-error.js';

/** KVM's bitmap of one slot, as last read. */
export interface SlotLog {
  readonly place: KvmSlot;
  /**
   * In `manual` mode KVM's log has all bits that were not cleared, so that reading it again into this bitmap loses
   * nothing.
   */
  readonly bitmap: DirtyBitmap;
  readonly get: StructBuffer<'slot' | 'dirty_bitmap'>;
}

export function openSlotLog(place: KvmSlot): SlotLog {
  const bitmap = new DirtyBitmap(place.pageCount);
  const get = new StructBuffer(KVM_DIRTY_LOG).set('slot', place.slot).set('dirty_bitmap', addressOf(bitmap.bytes));
  return { place, bitmap, get };
}

/** KVM_GET_DIRTY_LOG into the bitmap. */
export function readSlotLog({ place, bitmap, get }: SlotLog, vmFd: number, tracker: string): void {
  try {
    ioctl(vmFd, Kvm.KVM_GET_DIRTY_LOG, get.bytes, 'KVM_GET_DIRTY_LOG');
  } catch (error) {
    throw trackerFailed(tracker, `read the log of slot ${place.slot}`, error);
  }
  bitmap.maskTail();
}

/** @throws GodwitError GODWIT_INVALID_ARGUMENT for impossible slots */
export function checkSlots(slots: readonly KvmSlot[]): void {
  for (const { slot, firstPage, pageCount } of slots) {
    if (Number.isSafeInteger(firstPage) && firstPage >= 0 && Number.isSafeInteger(pageCount) && pageCount > 0) continue;
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `KVM slot ${slot} cannot map pages ${firstPage} + ${pageCount}`);
  }
}

/**
 * ORs the bits of a slot's pages into the bitmap of its block.
 *
 * @param sparse whether the bitmap has a summary, by which chunks without bits are skipped
 */
export function reportSlot(place: KvmSlot, bitmap: DirtyBitmap, into: DirtyBitmap, sparse = false): void {
  if (place.firstPage + place.pageCount > into.pageCount) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `KVM slot ${place.slot} ends at page ${place.firstPage + place.pageCount} of a block of ${into.pageCount}`,
    );
  }
  if (sparse && place.firstPage === 0 && place.pageCount === into.pageCount) into.or(bitmap);
  else if (!sparse && place.firstPage % 32 === 0) into.orWords(bitmap.words, place.firstPage);
  else {
    const runs = bitmap.runs(new PageRunList());
    for (let i = 0; i < runs.length; i++) into.setRange(place.firstPage + runs.firstPage(i), runs.runPages(i));
  }
}
