#!/usr/bin/env node
import { readFile, writeFile } from 'node:fs/promises';
import { GodwitError } from '@godwit/core';
import { Command, InvalidArgumentError } from 'commander';
import { formatBytes, parseBytes } from '../demo/quantity.js';
import { DEFAULT_SWEEP, type Sweep, sweepImage } from '../guest/sweep-image.js';
import { runImage } from './run-image.js';

/**
 * `npm run vmm -- --image FILE [--memory SIZE]` boots a flat image and shows its serial port until it is interrupted;
 * `npm run vmm -- sweep FILE [--from SIZE] [--to SIZE]` writes the sweep guest's.
 */
const program = new Command('npm run vmm --')
  .description('A virtual machine on /dev/kvm: boots a flat image in real mode at 0x7c00, on one vCPU, and shows COM1')
  .option('--image <file>', 'the image, such as a boot sector')
  .option('--memory <size>', 'guest memory, such as 150M', bytes, 150 * 2 ** 20)
  .showHelpAfterError()
  .action(async ({ image, memory }: { image?: string; memory: number }) => {
    if (image === undefined) return program.error('error: --image FILE names what to boot; `sweep FILE` makes one');
    const over = new AbortController();
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => over.abort());
    const machine = { memoryBytes: memory, image: await readFile(image) };
    await runImage(machine, (text) => process.stdout.write(text), over.signal);
  });

program
  .command('sweep')
  .description('write the sweep guest: it adds one to the first byte of every page of a range, for ever')
  .argument('<file>', 'to write')
  .option('--from <size>', `the first page (default: ${formatBytes(DEFAULT_SWEEP.first)})`, bytes)
  .option('--to <size>', `behind the last page (default: ${formatBytes(DEFAULT_SWEEP.end)})`, bytes)
  .option('--passes <n>', 'halt after so many passes (default: never)', Number)
  .action(async (path: string, { from, to, passes }: { from?: number; to?: number; passes?: number }) => {
    const sweep: Sweep = {
      ...(from === undefined ? {} : { first: from }),
      ...(to === undefined ? {} : { end: to }),
      ...(passes === undefined ? {} : { passes }),
    };
    await writeFile(path, sweepImage(sweep));
  });

try {
  await program.parseAsync();
} catch (error) {
  const told = error instanceof GodwitError || (error instanceof Error && 'code' in error);
  if (!told) throw error;
  process.stderr.write(`error: ${error.message}\n`);
  process.exitCode = 1;
}

function bytes(text: string): number {
  const value = parseBytes(text);
  if (value === undefined) throw new InvalidArgumentError('A size is a number such as 150M or 1G.');
  return value;
}
