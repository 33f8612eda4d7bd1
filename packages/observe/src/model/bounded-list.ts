/** A list with a bounded number of items, and what brings a viewer's older version of the list up to date. */
export abstract class BoundedList<T> {
  protected items: T[] = [];
  /** Changes when older items have moved to other indices. */
  revision = 0;

  get all(): readonly T[] {
    return this.items;
  }

  abstract add(item: T): void;
}

/**
 * Keeps the first item and the last ones, and thins out the items between: when the list is full, every second item of the older half is
 * removed. So old items are sparse, and new ones complete.
 */
export class ThinnedList<T> extends BoundedList<T> {
  readonly #most: number;
  count = 0;

  constructor(most: number) {
    super();
    this.#most = most;
  }

  add(item: T): void {
    this.count++;
    this.items.push(item);
    if (this.items.length <= this.#most) return;
    const older = Math.max(2, Math.floor(this.#most / 2));
    this.items = this.items.filter((_, index) => index >= older || index % 2 === 0);
    this.revision++;
  }
}

/** Keeps the last items. When the list is full, several items are removed at once, so that this happens rarely. */
export class LastItems<T> extends BoundedList<T> {
  readonly #most: number;
  dropped = 0;

  constructor(most: number) {
    super();
    this.#most = most;
  }

  add(item: T): void {
    this.items.push(item);
    if (this.items.length <= this.#most) return;
    const going = Math.ceil(this.#most / 10);
    this.items = this.items.slice(going);
    this.dropped += going;
    this.revision++;
  }
}
