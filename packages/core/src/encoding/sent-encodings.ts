import type { Clock } from '../clock.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import { ChannelEncoder } from './channel-encoder.js';
import { DeltaCache, type DeltaCacheStorage } from './delta-cache.js';
import { LARGEST_DELTA_PAGE } from './delta-format.js';
import {
  type EncodingRecipe,
  encodingFeature,
  type PageEncoding,
  recipesOf,
  type WholePageEncoding,
} from './page-encoding.js';

/** The encodings of a channel on another thread. The object can be passed to `postMessage` as it is. */
export interface SharedEncodings {
  /** `DeltaCache.storage`, in shared memory; `undefined` without deltas. */
  readonly cache: DeltaCacheStorage | undefined;
  /** How the thread makes the encodings other than deltas. */
  readonly recipes: readonly EncodingRecipe[];
  readonly adaptive: boolean;
}

/**
 * The encodings of one migration at its source: those that are offered, those that were agreed on, and the versions of pages that the
 * destination has. The encodings and versions outlive a lost link; every channel of every connection gets its own encoder from here.
 */
export class SentEncodings {
  readonly #offered: readonly PageEncoding[];
  readonly #adaptive: boolean;
  #agreed: readonly PageEncoding[] = [];
  #cache: DeltaCacheStorage | undefined;
  #forget = false;

  constructor(offered: readonly PageEncoding[], adaptive: boolean) {
    this.#offered = offered;
    this.#adaptive = adaptive;
  }

  /** The features of the hello for the offered encodings. */
  get features(): string[] {
    return this.#offered.map(({ name }) => encodingFeature(name));
  }

  /**
   * Handles the features of a `welcome`: the destination that sends it has no pages, whatever was sent before. Returns the names of
   * the encodings that the destination does not have.
   */
  welcomed(features: readonly string[], memory: GuestMemory): string[] {
    this.#agreed = this.#offered.filter(({ name }) => features.includes(encodingFeature(name)));
    const delta = this.#agreed.find((one) => one.kind === 'delta');
    // Deltas compare 32-bit words of guest memory, and their lengths have 28 bits.
    const usable = memory.pageSize % 4 === 0 && memory.pageSize <= LARGEST_DELTA_PAGE;
    if (delta === undefined || !usable) this.#cache = undefined;
    else if (this.#cache === undefined) this.#cache = DeltaCache.storage(delta.cacheBytes, memory.pageSize);
    else new DeltaCache(this.#cache).clear();
    return this.#offered.filter((one) => !this.#agreed.includes(one)).map(({ name }) => name);
  }

  /** Whether there are encodings that are used only where they pay. */
  get adaptive(): boolean {
    return this.#adaptive && (this.#cache !== undefined || this.#wholePages().length > 0);
  }

  /** Whether deltas are used. */
  get usesDeltas(): boolean {
    return this.#cache !== undefined;
  }

  /** Empties the cache before the next connection, since the destination's pages are no longer those that were sent. */
  forgetPages(): void {
    this.#forget = true;
  }

  /** Prepares the cache for a new connection: the threads of the one before have ended, or were terminated. */
  connectionBegins(): void {
    if (this.#cache !== undefined) {
      const cache = new DeltaCache(this.#cache);
      cache.unlockAll();
      if (this.#forget) cache.clear();
    }
    this.#forget = false;
  }

  /** Makes the encoder of a channel on this thread; `undefined` without encodings. */
  encoder(windows: MemoryWindows, clock: Clock, maximumPayload: number): ChannelEncoder | undefined {
    const encodings = this.#wholePages();
    if (this.#cache === undefined && encodings.length === 0) return undefined;
    const adaptive = this.#adaptive;
    return new ChannelEncoder({ windows, clock, cache: this.#cache, encodings, maximumPayload, adaptive });
  }

  /**
   * The encodings for a channel on another thread. Throws `GODWIT_UNSUPPORTED` for an encoding that cannot be made on that thread.
   */
  shared(): SharedEncodings {
    return { cache: this.#cache, recipes: recipesOf(this.#wholePages()), adaptive: this.#adaptive };
  }

  #wholePages(): WholePageEncoding[] {
    return this.#agreed.filter((one) => one.kind !== 'delta');
  }
}
