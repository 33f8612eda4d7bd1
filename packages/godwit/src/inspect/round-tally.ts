import type { FrameName } from '@godwit/core';
import type { RecordedFrame } from '@godwit/transport';
import type { Finding, PagesBySort } from './finding.js';

/** The frames that carry pages, and the kind under which these are counted. A new encoding needs a new line here. */
const PAGE_FRAMES: Partial<Record<FrameName, keyof PagesBySort>> = {
  pages: 'raw',
  zeroPages: 'zero',
  deltaPages: 'delta',
  compressedPages: 'compressed',
};

export function noPages(): PagesBySort {
  return { raw: 0, zero: 0, delta: 0, compressed: 0 };
}

/** Adds up one round of one link. */
export class RoundTally {
  readonly #link: number;
  readonly round: number;
  readonly #pages = noPages();
  /** Pages by stream, to compare with the number in the stream's `roundEnd`. */
  readonly #perStream = new Map<number, number>();
  #frames = 0;
  #bytes = 0;
  #from: number | undefined;

  constructor(link: number, round: number) {
    this.#link = link;
    this.round = round;
  }

  /** Adds a frame of `pages` pages; returns which kind of pages they are. */
  add(item: RecordedFrame, pages: number): keyof PagesBySort | undefined {
    const sort = PAGE_FRAMES[item.frame.type];
    const stream = item.track?.stream ?? 0;
    if (sort !== undefined) this.#pages[sort] += pages;
    this.#perStream.set(stream, (this.#perStream.get(stream) ?? 0) + pages);
    this.#frames++;
    this.#bytes += item.byteLength;
    this.#from ??= item.atMicros;
    return sort;
  }

  /** Pages of this round on one stream. */
  pagesOn(stream: number): number {
    return this.#perStream.get(stream) ?? 0;
  }

  get total(): number {
    let total = 0;
    for (const pages of this.#perStream.values()) total += pages;
    return total;
  }

  result(acknowledged: number | undefined, atMicros: number | undefined): Finding {
    const known = this.#from !== undefined && atMicros !== undefined;
    return {
      event: 'round',
      link: this.#link,
      round: this.round,
      pages: { ...this.#pages },
      frames: this.#frames,
      bytes: this.#bytes,
      acknowledged,
      durationMs: known ? (atMicros - (this.#from as number)) / 1000 : undefined,
    };
  }
}
