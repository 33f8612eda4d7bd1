import { GodwitError, type Rearm, type ThreadRecipe } from '@godwit/core/pages';
import { KVM_CLEAR_DIRTY_LOG, KvmDirtyLog as Kvm } from '../layouts/kvm-dirty-log.js';
import { StructBuffer } from '../layouts/struct-buffer.js';
import { addressOf, ioctl } from '../libc/index.js';

/** A KVM memory slot, and the pages of a RAM block that it maps into the guest. Pages are the host's (4 KiB on x86). */
export interface KvmSlot {
  /** The number given to KVM_SET_USER_MEMORY_REGION. */
  readonly slot: number;
  readonly blockIndex: number;
  /** First page of the block that the slot maps. */
  readonly firstPage: number;
  readonly pageCount: number;
}

/** The parts with which a thread re-arms pages. */
export interface KvmRearmOptions {
  /** File descriptor of the VM. */
  readonly vmFd: number;
  readonly slots: readonly KvmSlot[];
}

/** URL of this module, which the recipes of `kvmRearm` name. */
export const kvmRearmModule: string = import.meta.url;

/** KVM clears in blocks of one 64-bit word (virt/kvm/kvm_main.c, kvm_clear_dirty_log_protect). */
const UNIT_PAGES = 64;

/**
 * Makes the function that write-protects pages again (KVM_CLEAR_DIRTY_LOG), on any thread. It clears the bits of exactly the given
 * pages: if it cleared those of a page that another thread has already read, a write to that page in between would be lost.
 */
export function kvmRearm({ vmFd, slots }: KvmRearmOptions): Rearm {
  const clear = new StructBuffer(KVM_CLEAR_DIRTY_LOG);
  let mask = new Uint32Array(0);
  let address = 0n;
  return (block, firstPage, pageCount, words) => {
    for (const { slot, blockIndex, firstPage: start, pageCount: slotPages } of slots) {
      if (blockIndex !== block) continue;
      const from = Math.floor(Math.max(0, firstPage - start) / UNIT_PAGES) * UNIT_PAGES;
      const to = Math.min(firstPage + pageCount - start, slotPages);
      if (from >= to) continue;
      const count = Math.ceil((to - from) / UNIT_PAGES) * 2;
      if (mask.length < count) {
        // The array has its own buffer outside V8's heap, whose objects move.
        mask = new Uint32Array(new ArrayBuffer(count * 4));
        address = addressOf(mask);
      }
      if (!fill(mask, count, words, start + from - firstPage, to - from)) continue;
      const end = Math.min(from + count * 32, slotPages);
      clear
        .set('slot', slot)
        .set('num_pages', end - from)
        .set('first_page', from)
        .set('dirty_bitmap', address);
      try {
        ioctl(vmFd, Kvm.KVM_CLEAR_DIRTY_LOG, clear.bytes, 'KVM_CLEAR_DIRTY_LOG');
      } catch (error) {
        throw GodwitError.wrap(
          error,
          'GODWIT_TRACKER_FAILED',
          `the dirty tracker "kvm" could not clear ${end - from} pages of slot ${slot} from ${from} on`,
        );
      }
    }
  };
}

/** The recipe with which another thread makes the same function. */
export function kvmRearmRecipe(options: KvmRearmOptions): ThreadRecipe & { readonly options: KvmRearmOptions } {
  return { module: kvmRearmModule, make: 'kvmRearm', options };
}

/**
 * Fills `count` words of `mask` with the bits of `words` from bit `offset` on (which may be negative), of which `bits` count. Returns
 * whether any is set.
 */
function fill(mask: Uint32Array, count: number, words: Uint32Array, offset: number, bits: number): boolean {
  const first = Math.floor(offset / 32);
  const shift = offset - first * 32;
  let any = 0;
  for (let i = 0; i < count; i++) {
    const low = words[first + i] ?? 0;
    let word = shift === 0 ? low : (low >>> shift) | ((words[first + i + 1] ?? 0) << (32 - shift));
    const left = bits - i * 32;
    if (left < 32) word = left <= 0 ? 0 : word & ~(-1 << left);
    mask[i] = word;
    any |= word;
  }
  return any !== 0;
}
