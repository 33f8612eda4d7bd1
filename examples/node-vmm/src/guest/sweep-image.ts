import { GodwitError } from '@godwit/core';
import { PAGE_SIZE } from './layout.js';
import { SWEEP_SYMBOLS, sweepBytes } from './sweep-bytes.js';

/** The parameters of the sweep guest. Addresses are guest-physical, multiples of 4 KiB, from 1 MiB to below 3 GiB. */
export interface Sweep {
  /** Address of the first page. Default 1 MiB. */
  readonly first?: number;
  /** Address after the last page; if it equals `first`, there is no page, and the guest is idle. Default 100 MiB. */
  readonly end?: number;
  /** Number of passes over the pages before the guest halts; 0 (the default): it never halts. */
  readonly passes?: number;
}

export const DEFAULT_SWEEP: Required<Sweep> = { first: 2 ** 20, end: 100 * 2 ** 20, passes: 0 };

/** Printed on COM1 every 64 passes. */
export const SWEEP_LETTER = 'B';
/** Printed on COM1 when the guest halts after its last pass. */
export const SWEEP_DONE = 'D';

const LOWEST = 2 ** 20;
const HIGHEST = 3 * 2 ** 30;

/**
 * The sweep guest (guest/sweep.S) as a boot sector of 512 bytes: a disk for QEMU, a `bootImage` for `Machine`. It adds
 * one to the first byte of every page of its range, in ascending order, over and over.
 *
 * @throws GodwitError GODWIT_INVALID_ARGUMENT for a range that it cannot sweep
 * @example
 *
 *     await writeFile('sweep.img', sweepImage({ first: 1 << 20, end: 100 << 20 }));
 */
export function sweepImage(sweep: Sweep = {}): Uint8Array {
  const { first, end, passes } = { ...DEFAULT_SWEEP, ...sweep };
  const address = (value: number): boolean => value % PAGE_SIZE === 0 && value >= LOWEST && value <= HIGHEST;
  if (!address(first) || !address(end) || end < first) {
    throw new GodwitError(
      'GODWIT_INVALID_ARGUMENT',
      `the sweep guest sweeps whole pages of ${PAGE_SIZE} bytes between ${LOWEST} and ${HIGHEST}, got ${first} to ${end}`,
    );
  }
  if (!Number.isInteger(passes) || passes < 0 || passes >= 2 ** 32) {
    throw new GodwitError('GODWIT_INVALID_ARGUMENT', `a number of passes is below 2^32, 0 is for ever, got ${passes}`);
  }
  const image = sweepBytes();
  const view = new DataView(image.buffer);
  const place = (symbol: string): number => (SWEEP_SYMBOLS[symbol] as number) - (SWEEP_SYMBOLS['_start'] as number);
  view.setUint32(place('first'), first, true);
  view.setUint32(place('end'), end, true);
  view.setUint32(place('passes'), passes, true);
  return image;
}
