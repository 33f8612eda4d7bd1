import { CELLS, cellsOf, cellsText, FIRST_CELLS, nextCells } from '@godwit/example-node-vmm/guest';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';

/** Rule 110 by its table: what a cell becomes, by its left neighbour, itself and its right one as three bits. */
const TABLE = [0, 1, 1, 1, 0, 1, 1, 0];

function nextByTable(text: string): string {
  const alive = (at: number): number => (text[(at + CELLS) % CELLS] === '#' ? 1 : 0);
  return Array.from(text, (_, at) => (TABLE[alive(at - 1) * 4 + alive(at) * 2 + alive(at + 1)] === 1 ? '#' : ' ')).join(
    '',
  );
}

test('each row follows from the one before by the table of rule 110, in a ring', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (cells) => {
      expect(cellsText(nextCells(cells))).toBe(nextByTable(cellsText(cells)));
      expect(cellsOf(cellsText(cells))).toBe(cells);
    }),
  );
});

test('the picture never ends, and never repeats its last row', () => {
  const seen = new Set<bigint>();
  let cells = FIRST_CELLS;
  for (let row = 0; row < 1000; row++) {
    seen.add(cells);
    const next = nextCells(cells);
    expect(next).not.toBe(cells);
    expect(next).not.toBe(0n);
    cells = next;
  }
  // The picture has to change over hundreds of rows, so that a reader sees that it continues.
  expect(seen.size).toBeGreaterThan(100);
});
