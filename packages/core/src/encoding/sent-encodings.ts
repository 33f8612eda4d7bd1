import type { Clock } from '../clock.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { MemoryWindows } from '../memory/memory-windows.js';
import { ChannelEncoder } from './channel-encoder.js';
import { DeltaCache, type DeltaCacheStorage } from './delta-cache.js';
import { LARGEST_DELTA_PAGE } from './delta-format.js';
import type { Compression, EncodingRecipe, PageEncoding } from './page-encoding.js';
import { encodingFeature } from './page-encoding.js';

/** What a channel on another thread needs to encode as one on this thread does; goes through `postMessage` as it is. */
export interface SharedEncodings {
  /** `DeltaCache.storage`, in shared memory; `undefined` without deltas. */
  readonly cache: DeltaCacheStorage | undefined;
  readonly compressions: readonly EncodingRecipe[];
  readonly adaptive: boolean;
}

/**
 * The encodings of one migration at its source: what is offered, what was agreed on, and the versions of pages that the
 * destination has. They outlive a lost link; every channel of every connection gets an encoder of its own from here.
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

  /** For the hello. */
  get features(): string[] {
    return this.#offered.map(({ name }) => encodingFeature(name));
  }

  /**
   * The destination has said `welcome`, with these features: it has no page of ours, whatever was sent before. Returns the
   * names of the encodings that it does not have.
   */
  welcomed(features: readonly string[], memory: GuestMemory): string[] {
    this.#agreed = this.#offered.filter(({ name }) => features.includes(encodingFeature(name)));
    const delta = this.#agreed.find((one) => one.kind === 'delta');
    // Words of guest memory are compared, and lengths written in 28 bits.
    const usable = memory.pageSize % 4 === 0 && memory.pageSize <= LARGEST_DELTA_PAGE;
    if (delta === undefined || !usable) this.#cache = undefined;
    else if (this.#cache === undefined) this.#cache = DeltaCache.storage(delta.cacheBytes, memory.pageSize);
    else new DeltaCache(this.#cache).clear();
    return this.#offered.filter((one) => !this.#agreed.includes(one)).map(({ name }) => name);
  }

  /** Whether pages are sent as what has changed in them. */
  get usesDeltas(): boolean {
    return this.#cache !== undefined;
  }

  /** The destination's pages are not what was sent: from the next connection on no delta builds on them. */
  forgetPages(): void {
    this.#forget = true;
  }

  /** A connection begins: the threads of the one before have ended, in their own time or not. */
  connectionBegins(): void {
    if (this.#cache !== undefined) {
      const cache = new DeltaCache(this.#cache);
      cache.unlockAll();
      if (this.#forget) cache.clear();
    }
    this.#forget = false;
  }

  /** For a channel on this thread; `undefined` when there is nothing to encode with. */
  encoder(windows: MemoryWindows, clock: Clock): ChannelEncoder | undefined {
    const compressions = this.#compressions();
    if (this.#cache === undefined && compressions.length === 0) return undefined;
    return new ChannelEncoder({ windows, clock, cache: this.#cache, compressions, adaptive: this.#adaptive });
  }

  /** For a channel on another thread. */
  shared(): SharedEncodings {
    const compressions = this.#compressions().map(({ recipe }) => recipe);
    return { cache: this.#cache, compressions, adaptive: this.#adaptive };
  }

  #compressions(): Compression[] {
    return this.#agreed.filter((one) => one.kind === 'compression');
  }
}
