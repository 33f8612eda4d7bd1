/** An expected time: its median, and the interval that contains the actual time in nine cases of ten. Milliseconds. */
export interface Estimate {
  readonly ms: number;
  readonly lowMs: number;
  readonly highMs: number;
}

export const NOTHING: Estimate = { ms: 0, lowMs: 0, highMs: 0 };

/** A guess whose interval reaches from `lowMs` to `highMs`. */
export function guess(ms: number, lowMs: number, highMs: number): Estimate {
  return { ms, lowMs: Math.min(lowMs, ms), highMs: Math.max(highMs, ms) };
}

/** The estimate, `factor` times as long. */
export function times({ ms, lowMs, highMs }: Estimate, factor: number): Estimate {
  return { ms: ms * factor, lowMs: lowMs * factor, highMs: highMs * factor };
}

/**
 * The sum of times that do not depend on each other. Its ends are not the sums of the ends, since not everything is slow at once: the
 * distances from the points to the ends are added in quadrature, the lower ones separately from the upper ones (the terms are skewed).
 * An end of the sum therefore always lies between the sum of the points and the sum of the ends.
 */
export function sumOf(estimates: readonly Estimate[]): Estimate {
  let ms = 0;
  let below = 0;
  let above = 0;
  for (const one of estimates) {
    ms += one.ms;
    below += (one.ms - one.lowMs) * (one.ms - one.lowMs);
    above += (one.highMs - one.ms) * (one.highMs - one.ms);
  }
  return { ms, lowMs: Math.max(0, ms - Math.sqrt(below)), highMs: ms + Math.sqrt(above) };
}

/**
 * A time that is the product of `estimate` and a factor that is uncertain too (1.2 within 0.8 and 2, say): the distances are added in
 * quadrature on a scale of ratios.
 */
export function scaled({ ms, lowMs, highMs }: Estimate, factor: Estimate): Estimate {
  const point = ms * factor.ms;
  if (point <= 0) return { ms: 0, lowMs: 0, highMs: Math.max(0, highMs * factor.highMs) };
  const ratio = (a: number, b: number) => Math.log(Math.max(a, Number.MIN_VALUE) / Math.max(b, Number.MIN_VALUE));
  const below = Math.hypot(ratio(ms, lowMs), ratio(factor.ms, factor.lowMs));
  const above = Math.hypot(ratio(highMs, ms), ratio(factor.highMs, factor.ms));
  return { ms: point, lowMs: point * Math.exp(-below), highMs: point * Math.exp(above) };
}
