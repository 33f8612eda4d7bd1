/** A list with a bounded number of items, and what a viewer that has an older version of it needs to have this one. */
export abstract class BoundedList<T> {
  protected items: T[] = [];
  /** Changes when items that were there already have changed their places. */
  revision = 0;

  get all(): readonly T[] {
    return this.items;
  }

  abstract add(item: T): void;
}

/**
 * Keeps the first item and the last ones, and thins out what is between: when it is full, every second item of the older half goes. What
 * is long ago is coarse, what is new is whole.
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

/** Keeps the last items. Some more go at once when it is full, so that it changes rarely. */
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
