import { abortable } from '../abortable.js';
import type { Claim } from '../claim/claim.js';
import type { MigratableVm } from '../device/migratable-vm.js';
import { GodwitError } from '../errors.js';
import { inTime } from '../in-time.js';
import { DirtyBitmaps } from '../memory/dirty-bitmaps.js';
import type { MigrationEvent } from '../migration-event.js';
import type { ResolvedOptions } from './options.js';

export interface NamedFreeParts {
  readonly vm: MigratableVm;
  readonly options: ResolvedOptions;
  readonly claim: Claim;
  readonly emit: (event: MigrationEvent) => void;
}

/**
 * The pages that the guest has named as free (`MigratableVm.freePages`) and has not written since. The destination has zeros there, whatever
 * the source has: they are left out of round 1, and of the comparison of `verify`.
 */
export class NamedFree {
  readonly #parts: NamedFreeParts;
  #pages: DirtyBitmaps | undefined;

  constructor(parts: NamedFreeParts) {
    this.#parts = parts;
  }

  /** The pages; undefined where none was named. */
  get pages(): DirtyBitmaps | undefined {
    return this.#pages;
  }

  /**
   * Asks the guest, for at most `freePagesTimeoutMs`; what was named before is forgotten. Rejects only with the reason of `signal`.
   */
  async collect(signal: AbortSignal): Promise<void> {
    this.#pages = undefined;
    const { vm, options, emit } = this.#parts;
    const { clock, freePagesTimeoutMs } = options;
    const { freePages } = vm;
    if (freePages === undefined || freePagesTimeoutMs === 0) return;
    const start = clock.now();
    const named = new DirtyBitmaps(vm.memory);
    const complete = await this.#ask(named, signal);
    if (complete === undefined) return;
    // A copy: an owner that goes on after its time names nothing more here.
    const pages = new DirtyBitmaps(vm.memory);
    pages.or(named);
    this.#pages = pages;
    const ms = clock.now() - start;
    emit({ type: 'free-pages', name: freePages.name, pages: pages.count(), ms, complete });
  }

  /** Takes these pages, which were written, for pages with contents again. */
  written(pages: DirtyBitmaps): void {
    this.#pages?.andNot(pages);
  }

  /** Whether all pages were named in time; undefined when the owner has failed. */
  async #ask(into: DirtyBitmaps, signal: AbortSignal): Promise<boolean | undefined> {
    const { vm, options, claim, emit } = this.#parts;
    const { clock, freePagesTimeoutMs } = options;
    const over = new AbortController();
    const collecting = (async () => vm.freePages?.collect(into, over.signal))();
    claim.keepUntil(
      collecting.then(
        () => {},
        () => {},
      ),
      `collect() of the free pages of "${vm.freePages?.name}"`,
    );
    const late = new GodwitError(
      'GODWIT_TIMEOUT',
      `the guest has not named its last free page in ${freePagesTimeoutMs} ms`,
    );
    try {
      await inTime(abortable(collecting, signal), clock, freePagesTimeoutMs, () => late);
      return true;
    } catch (error) {
      signal.throwIfAborted();
      if (error === late) return false;
      const why = error instanceof Error ? error.message : String(error);
      const message = `collect() of the free pages of "${vm.freePages?.name}" failed: ${why}. All pages are sent`;
      emit({ type: 'warning', code: 'GODWIT_VM_FAILED', message });
      return undefined;
    } finally {
      over.abort(late);
    }
  }
}
