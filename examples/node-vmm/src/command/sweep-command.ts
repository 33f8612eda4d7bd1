import { writeFile } from 'node:fs/promises';
import { GodwitError } from '@godwit/core';
import { Command } from 'commander';
import { formatBytes } from '../demo/quantity.js';
import { DEFAULT_SWEEP, type Sweep, sweepImage } from '../guest/sweep-image.js';
import { bytes, integer } from './values.js';

interface SweepOptions {
  readonly from?: number;
  readonly to?: number;
  readonly passes?: number;
}

/** Writes an image that both `run --image` and QEMU boot. */
export function sweepCommand(): Command {
  return new Command('sweep')
    .description('write the sweep guest: it adds one to the first byte of every page of a range, for ever')
    .argument('<file>', 'to write')
    .option('--from <size>', `the first page (default: ${formatBytes(DEFAULT_SWEEP.first)})`, bytes())
    .option('--to <size>', `behind the last page (default: ${formatBytes(DEFAULT_SWEEP.end)})`, bytes())
    .option('--passes <n>', 'halt after so many passes (default: never)', integer(1, 2 ** 31))
    .action(async (path: string, { from, to, passes }: SweepOptions) => {
      const range: Sweep = {
        ...(from === undefined ? {} : { first: from }),
        ...(to === undefined ? {} : { end: to }),
        ...(passes === undefined ? {} : { passes }),
      };
      const image = sweepImage(range);
      try {
        await writeFile(path, image);
      } catch (error) {
        const message = `the image cannot be written: ${(error as Error).message}`;
        throw new GodwitError('GODWIT_INVALID_ARGUMENT', message, { cause: error });
      }
    });
}
