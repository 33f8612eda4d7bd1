/** The largest share of wrong letters with which a word still counts as a misspelling. */
const MOST_WRONG = 0.4;

/** The word of `known` that `word` was most likely meant to be; `undefined` when none is near. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let least = Math.max(1, Math.floor(word.length * MOST_WRONG)) + 1;
  for (const candidate of known) {
    const wrong = candidate.startsWith(word) && word.length > 1 ? 1 : distance(word, candidate);
    if (wrong >= least) continue;
    best = candidate;
    least = wrong;
  }
  return best;
}

/** Letters to insert, delete, replace, or swap with their neighbours (optimal string alignment). */
function distance(one: string, other: string): number {
  const rows: number[][] = [Array.from({ length: other.length + 1 }, (_, i) => i)];
  for (let i = 1; i <= one.length; i++) {
    const row = [i];
    const before = rows[i - 1] as number[];
    for (let j = 1; j <= other.length; j++) {
      const same = one[i - 1] === other[j - 1];
      const ways = [(before[j] as number) + 1, (row[j - 1] as number) + 1, (before[j - 1] as number) + (same ? 0 : 1)];
      const swapped = i > 1 && j > 1 && one[i - 1] === other[j - 2] && one[i - 2] === other[j - 1];
      if (swapped) ways.push(((rows[i - 2] as number[])[j - 2] as number) + 1);
      row.push(Math.min(...ways));
    }
    rows.push(row);
  }
  return (rows[one.length] as number[])[other.length] as number;
}
