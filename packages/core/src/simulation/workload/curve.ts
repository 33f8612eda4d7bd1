import { GodwitError } from '../../errors.js';

/** Pages that are rewritten at one rate: `bytes` of them, each once in `everyMs` on average. */
export interface WorkingSetPart {
  readonly bytes: number;
  readonly everyMs: number;
}

/** Steps of the fit, which changes by less than a thousandth long before the last one. */
const STEPS = 2000;

/**
 * Divides a measured working set (the distinct bytes that became dirty in windows of different lengths) into parts that are rewritten at
 * different rates. A part of `N` bytes, each rewritten once in `T`, has dirtied `N (1 - exp(-t / T))` after `t`; the sum over all parts is
 * fitted to the curve by non-negative least squares of the relative errors (multiplicative updates of Lee and Seung), with one `T` for
 * each doubling from a quarter of the shortest window to 16 times the longest.
 *
 * Beyond the longest window, where there is no measurement, the curve continues like its last windows.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT unless the windows ascend and the bytes do not fall
 * @example
 * const parts = partsOfCurve([{ windowMs: 100, bytes: 8e6 }, { windowMs: 1000, bytes: 40e6 }]);
 */
export function partsOfCurve(
  points: readonly { readonly windowMs: number; readonly bytes: number }[],
): readonly WorkingSetPart[] {
  checkCurve(points);
  const measured = points.filter(({ bytes }) => bytes > 0);
  const [first] = measured;
  const last = measured.at(-1);
  if (first === undefined || last === undefined) return [];
  const times: number[] = [];
  for (let ms = first.windowMs / 4; ms <= last.windowMs * 16; ms *= 2) times.push(ms);
  // Each row is divided by its measurement, so that the errors are relative and the right side is all ones.
  const rows = measured.map(({ windowMs, bytes }) => times.map((ms) => -Math.expm1(-windowMs / ms) / bytes));
  let sizes = times.map(() => last.bytes / times.length);
  for (let step = 0; step < STEPS; step++) {
    const fitted = rows.map((row) => row.reduce((sum, share, i) => sum + share * (sizes[i] as number), 0));
    sizes = sizes.map((size, i) => {
      let above = 0;
      let below = 0;
      for (const [k, row] of rows.entries()) {
        above += row[i] as number;
        below += (row[i] as number) * (fitted[k] as number);
      }
      return below > 0 ? (size * above) / below : size;
    });
  }
  return times.flatMap((everyMs, i) => {
    const bytes = sizes[i] as number;
    return bytes > last.bytes * 1e-6 ? [{ bytes, everyMs }] : [];
  });
}

function checkCurve(points: readonly { readonly windowMs: number; readonly bytes: number }[]): void {
  let before = { windowMs: 0, bytes: 0 };
  for (const point of points) {
    if (!(point.windowMs > before.windowMs && point.bytes >= before.bytes && Number.isFinite(point.bytes))) {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        `a working-set curve needs ascending windows and bytes that do not fall, got ${point.bytes} bytes in ${point.windowMs} ms ` +
          `after ${before.bytes} bytes in ${before.windowMs} ms`,
      );
    }
    before = point;
  }
}
