/** A generator of numbers between 0 and 1, the same for the same seed (Lehmer's generator modulo 2^31 - 1). */
export function seeded(seed: number): () => number {
  let state = (Math.abs(seed) % 2147483646) + 1;
  return () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
}
