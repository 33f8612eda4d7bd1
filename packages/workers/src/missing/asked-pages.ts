import type { PagePlace } from '@godwit/core/pages';

/** Pages that were asked for and have not come, in the order of asking: as many as there are threads that wait, and a few more. */
export class AskedPages {
  #pages: PagePlace[] = [];

  /** Notes a page that is not noted yet. Those that have come are forgotten now and then (`still`). */
  add(block: number, page: number): void {
    if (!this.#pages.some((asked) => asked.page === page && asked.block === block)) this.#pages.push({ block, page });
  }

  /** Forgets the pages that have come, and returns the others. */
  still(isMissing: (block: number, page: number) => boolean): readonly PagePlace[] {
    this.#pages = this.#pages.filter(({ block, page }) => isMissing(block, page));
    return this.#pages;
  }

  get size(): number {
    return this.#pages.length;
  }
}
