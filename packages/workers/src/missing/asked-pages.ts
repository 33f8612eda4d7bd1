import type { PagePlace } from '@godwit/core/pages';

/** When this many pages are noted, those that another thread has put are removed. */
const MANY = 64;

/** Pages that were asked for and have not come, in the order of asking: about as many as there are threads that wait. */
export class AskedPages {
  #pages: PagePlace[] = [];
  readonly #isMissing: (block: number, page: number) => boolean;

  constructor(isMissing: (block: number, page: number) => boolean) {
    this.#isMissing = isMissing;
  }

  /** Notes a page, once. */
  add(block: number, page: number): void {
    if (this.#pages.length >= MANY) this.still();
    if (!this.#pages.some((asked) => asked.page === page && asked.block === block)) this.#pages.push({ block, page });
  }

  /** Removes pages that are in memory now. */
  came(block: number, page: number, pageCount: number): void {
    for (let i = this.#pages.length - 1; i >= 0; i--) {
      const asked = this.#pages[i] as PagePlace;
      if (asked.block === block && asked.page >= page && asked.page < page + pageCount) this.#pages.splice(i, 1);
    }
  }

  /** The pages that have not come. */
  still(): readonly PagePlace[] {
    this.#pages = this.#pages.filter(({ block, page }) => this.#isMissing(block, page));
    return [...this.#pages];
  }
}
