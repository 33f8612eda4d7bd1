import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { cached } from './cache.js';
import { announced, run } from './command.js';

/** A guest has no libraries. */
const FLAGS = ['-O2', '-Wall', '-Wextra', '-static', '-s'];

/**
 * Builds a program of one C file for a Linux guest, with the machine's own compiler; cached by its source.
 *
 * @returns the path of the program
 */
export async function builtProgram(source: string): Promise<string> {
  const name = basename(source, '.c');
  const folder = await cached('program', [name, ...FLAGS, readFileSync(source, 'utf8')], async (target) => {
    await announced(`building ${name}`, () => run('cc', [...FLAGS, '-o', join(target, name), source]));
  });
  return join(folder, name);
}
