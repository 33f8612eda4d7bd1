import { pinHostMemory } from '@godwit/linux';
import type { DmaMapping } from './dma-space.js';

/** The pins of memory that devices reach through mappings: its owner must not discard it (`RamBlock.pin`). */
export class PinnedMappings {
  readonly #unpin = new Map<DmaMapping, () => void>();

  /** Pins the memory of a mapping before `map` is called. When `map` fails, the pin is removed. */
  async pinnedBy(mapping: DmaMapping, hostAddress: bigint, map: () => Promise<number>): Promise<number> {
    this.#unpin.set(mapping, pinHostMemory(hostAddress, mapping.byteLength));
    let result = -1;
    try {
      result = await map();
      return result;
    } finally {
      if (result < 0) this.release(mapping);
    }
  }

  /** Removes the pin of a mapping that is gone. */
  release(mapping: DmaMapping): void {
    this.#unpin.get(mapping)?.();
    this.#unpin.delete(mapping);
  }

  /** Removes all pins, when all mappings are gone. */
  releaseAll(): void {
    for (const mapping of [...this.#unpin.keys()]) this.release(mapping);
  }
}
