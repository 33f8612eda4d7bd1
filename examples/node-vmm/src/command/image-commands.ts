import { readFile, writeFile } from 'node:fs/promises';
import { Command } from 'commander';
import { runImage } from '../boot/run-image.js';
import { formatBytes } from '../demo/quantity.js';
import { DEFAULT_SWEEP, type Sweep, sweepImage } from '../guest/sweep-image.js';
import { bytes, integer } from './values.js';

/** What `npm run vmm -- --image FILE` is, which names no command. */
export const BOOT = 'boot';

/** A flat image without anything beside it, and the making of one. */
export function imageCommands(): readonly Command[] {
  const boot = new Command(BOOT)
    .description(
      'boot a flat image in real mode at 0x7c00, on one vCPU, and show COM1: no control socket, no migration',
    )
    .option('--image <file>', 'the image, such as a boot sector; "sweep FILE" makes one')
    .option('--memory <size>', 'guest memory, such as 150M', bytes(), 150 * 2 ** 20)
    .action(async ({ image, memory }: { readonly image?: string; readonly memory: number }) => {
      if (image === undefined) return boot.error('error: --image FILE names what to boot; `sweep FILE` makes one');
      const over = new AbortController();
      for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => over.abort());
      const machine = { memoryBytes: memory, image: await readFile(image) };
      await runImage(machine, (text) => process.stdout.write(text), over.signal);
    });
  const sweep = new Command('sweep')
    .description('write the sweep guest: it adds one to the first byte of every page of a range, for ever')
    .argument('<file>', 'to write')
    .option('--from <size>', `the first page (default: ${formatBytes(DEFAULT_SWEEP.first)})`, bytes())
    .option('--to <size>', `behind the last page (default: ${formatBytes(DEFAULT_SWEEP.end)})`, bytes())
    .option('--passes <n>', 'halt after so many passes (default: never)', integer(1, 2 ** 31))
    .action(async (path: string, { from, to, passes }: { from?: number; to?: number; passes?: number }) => {
      const range: Sweep = {
        ...(from === undefined ? {} : { first: from }),
        ...(to === undefined ? {} : { end: to }),
        ...(passes === undefined ? {} : { passes }),
      };
      await writeFile(path, sweepImage(range));
    });
  return [boot, sweep];
}
