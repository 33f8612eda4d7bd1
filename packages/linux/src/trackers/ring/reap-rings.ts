import { DirtyBitmap } from '@godwit/core/pages';
import { dirtyRingBytes } from '../../kvm/dirty-ring.js';
import { DirtyRingCalls } from '../../kvm/dirty-ring-calls.js';
import { KvmDirtyRing } from '../../layouts/kvm-dirty-ring.js';
import { ioctl, viewOf } from '../../libc/index.js';
import type { KvmSlot } from '../kvm-rearm.js';
import { RingReaper } from './ring-reaper.js';
import { VcpuRing } from './vcpu-ring.js';

/** Storage of a slot's bitmap, and of its summary. */
export interface SharedBitmap {
  readonly bits: SharedArrayBuffer;
  readonly summary: SharedArrayBuffer;
}

export interface RingThreadData {
  readonly vmFd: number;
  readonly entries: number;
  /** A ring is reaped as soon as it has this many entries to be collected. */
  readonly softLimit: number;
  /** The address of each vCPU's ring. */
  readonly rings: readonly bigint[];
  /** See `VcpuRing`. */
  readonly places: SharedArrayBuffer;
  readonly slots: readonly KvmSlot[];
  /** Two sets of bitmaps, one for each slot: the thread fills one while the other is read, and changes them at each harvest. */
  readonly bitmaps: readonly (readonly SharedBitmap[])[];
  /** See `RingReaper`. */
  readonly collected: SharedArrayBuffer;
  readonly calls: SharedArrayBuffer;
}

/** Messages of the thread. */
export type RingThreadMessage =
  /** The thread reaps from now on. */
  | { readonly type: 'ready' }
  /** All dirty pages are in this set of bitmaps, which the reader has until the next harvest, and are write-protected again. */
  | { readonly type: 'harvested'; readonly harvest: number; readonly set: number };

/**
 * The most entries that a ring gets in a millisecond, which determines how often the rings are checked: a KVM that emulates `rep stos`
 * logs every store.
 */
const ENTRIES_PER_MS = 8000;

/**
 * The thread that reaps a VM's dirty rings: when one of them is full to the soft limit, when a vCPU cannot go on, and at harvests. A page
 * that is written again costs the guest a fault each time it is reaped, so that a ring is not reaped earlier than necessary.
 *
 * The thread does not return to its event loop until it ends.
 */
export function reapRings(data: RingThreadData, post: (message: RingThreadMessage) => void): void {
  const calls = new DirtyRingCalls(data.calls);
  try {
    reapUntilEnd(data, calls, post);
  } finally {
    // This is called here and not by the thread that has started this one, which may be waiting.
    calls.ended();
  }
}

function reapUntilEnd(data: RingThreadData, calls: DirtyRingCalls, post: (message: RingThreadMessage) => void): void {
  const { vmFd, entries, softLimit, slots } = data;
  const sets = data.bitmaps.map((set) =>
    set.map(({ bits, summary }, i) => new DirtyBitmap((slots[i] as KvmSlot).pageCount, bits, summary)),
  );
  const places = new Int32Array(data.places);
  const reaper = new RingReaper({
    rings: data.rings.map((address, i) => new VcpuRing(ringWords(address, entries), places, i)),
    slots,
    collected: new Int32Array(data.collected),
    reset: () => ioctl(vmFd, KvmDirtyRing.KVM_RESET_DIRTY_RINGS, 0, 'KVM_RESET_DIRTY_RINGS'),
  });
  // No call waits yet: logging and harvests begin once the thread is ready.
  const tickMs = Math.max(1, Math.floor(softLimit / ENTRIES_PER_MS));
  let { call: served, harvest: given } = calls.take();
  let filling = 0;
  post({ type: 'ready' });
  for (;;) {
    const { call, harvest, ending } = calls.take();
    if (call !== served || harvest !== given || ending || reaper.anyHas(softLimit)) {
      reaper.reap(sets[filling] as readonly DirtyBitmap[]);
      reaper.makeRoom(calls.fullExits());
    }
    if (harvest !== given) {
      given = harvest;
      post({ type: 'harvested', harvest, set: filling });
      filling = 1 - filling;
    }
    served = call;
    calls.serve(call);
    if (ending) return;
    calls.wait(call, tickMs);
  }
}

/** A ring's memory as 32-bit words. */
export function ringWords(address: bigint, entries: number): Int32Array {
  return new Int32Array(viewOf(address, dirtyRingBytes(entries)).buffer);
}
