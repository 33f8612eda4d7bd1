/**
 * The picture on the guest's console: 64 cells in a ring, of which each heartbeat prints the next row. It is the cellular automaton
 * "rule 110": a cell is alive when it or its right neighbour was, but not when it and both of its neighbours were. Mirrors
 * guest/heartbeat.S.
 */

/** The cells before the first heartbeat: one is alive. The leftmost cell is the highest bit. */
export const FIRST_CELLS = 0x1_0000_0000n;

export const CELLS = 64;

const ALL = (1n << BigInt(CELLS)) - 1n;

/** The row after `cells`. */
export function nextCells(cells: bigint): bigint {
  const right = ((cells << 1n) | (cells >> 63n)) & ALL;
  const left = ((cells >> 1n) | (cells << 63n)) & ALL;
  return (cells | right) ^ (cells & right & left);
}

/** A row as the guest prints it: `#` for a cell that is alive, a space for another. */
export function cellsText(cells: bigint): string {
  return cells.toString(2).padStart(CELLS, '0').replaceAll('0', ' ').replaceAll('1', '#');
}

/** The row that the guest has printed. */
export function cellsOf(text: string): bigint {
  return BigInt(`0b${text.replaceAll(' ', '0').replaceAll('#', '1')}`);
}
