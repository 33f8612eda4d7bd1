import type { DmaMapping } from '../dma-space.js';

/** Something made once for each mapping, and forgotten with it. */
export class PerMapping<T> {
  readonly #make: (mapping: DmaMapping) => T;
  #mappings: readonly DmaMapping[] = [];
  #made: readonly T[] = [];

  constructor(make: (mapping: DmaMapping) => T) {
    this.#make = make;
  }

  /** One for each of `mappings`, in their order. Costs one comparison while they have not changed. */
  of(mappings: readonly DmaMapping[]): readonly T[] {
    if (mappings === this.#mappings) return this.#made;
    const before = new Map(this.#mappings.map((mapping, i) => [mapping, this.#made[i] as T]));
    this.#made = mappings.map((mapping) => before.get(mapping) ?? this.#make(mapping));
    this.#mappings = mappings;
    return this.#made;
  }
}
