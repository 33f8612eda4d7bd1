import { checkOptions } from '@godwit/core';
import { map, type OperatorFunction } from 'rxjs';
import type { DirtySample } from './dirty-samples.js';

/** A range of pages that is written again and again. */
export interface HotRange {
  readonly blockIndex: number;
  readonly firstPage: number;
  readonly pageCount: number;
  /** Its dirty pages per sample; older samples count less. */
  readonly heat: number;
}

/** Options of `hotRanges`. */
export interface HotRangesOptions {
  /** Pages per range; default 512, which is 2 MiB of pages of 4 KiB. */
  readonly rangePages?: number;
  /** The number of ranges to emit; default 10. */
  readonly top?: number;
  /** The part of a range's heat that is left after each sample; default 0.8. */
  readonly decay?: number;
}

/**
 * Emits the ranges of memory that are written most, hottest first. Ranges that are not written any more lose heat and
 * drop out.
 *
 * @example
 * dirtySamples(tracker, memory, { everyMs: 100 })
 *   .pipe(hotRanges({ top: 3 }))
 *   .subscribe((ranges) => console.log(ranges.map(({ firstPage }) => firstPage)));
 */
export function hotRanges(options: HotRangesOptions = {}): OperatorFunction<DirtySample, readonly HotRange[]> {
  checkOptions<HotRangesOptions>('hotRanges', options, { rangePages: true, top: true, decay: true });
  const { rangePages = 512, top = 10, decay = 0.8 } = options;
  return (samples) => {
    let heat: Float64Array[] | undefined;
    return samples.pipe(
      map(({ bitmaps }) => {
        heat ??= bitmaps.blocks.map(({ pageCount }) => new Float64Array(Math.ceil(pageCount / rangePages)));
        const hot: HotRange[] = [];
        for (const [blockIndex, bitmap] of bitmaps.blocks.entries()) {
          const ranges = heat[blockIndex] as Float64Array;
          for (let i = 0; i < ranges.length; i++) {
            const firstPage = i * rangePages;
            const pageCount = Math.min(rangePages, bitmap.pageCount - firstPage);
            const now = (ranges[i] as number) * decay + (1 - decay) * bitmap.countRange(firstPage, pageCount);
            ranges[i] = now;
            if (now >= 0.01) hot.push({ blockIndex, firstPage, pageCount, heat: now });
          }
        }
        return hot.sort((a, b) => b.heat - a.heat).slice(0, top);
      }),
    );
  };
}
