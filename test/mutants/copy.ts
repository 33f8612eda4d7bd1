import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { API } from 'typescript/unstable/sync';
import { instrument } from './instrument.js';
import type { Mutant } from './mutant.js';

/** A copy of packages/core whose code contains all mutants. */
export interface Copy {
  readonly root: string;
  readonly mutants: readonly Mutant[];
  /** Deletes the copy. */
  remove(): void;
}

/** Copies the built package to `.cache`, and instruments `files`, which are paths below packages/core/src. */
export function copyOfCore(repository: string, files: readonly string[]): Copy {
  const cache = join(repository, '.cache');
  mkdirSync(cache, { recursive: true });
  const root = mkdtempSync(join(cache, 'mutants-'));
  const from = join(repository, 'packages', 'core');
  const to = join(root, 'packages', 'core');
  mkdirSync(to, { recursive: true });
  for (const name of ['package.json', 'dist', 'dist-test'])
    cpSync(join(from, name), join(to, name), { recursive: true });
  // Tests import the package by its name, and read documents of the repository.
  mkdirSync(join(root, 'node_modules', '@godwit'), { recursive: true });
  symlinkSync(to, join(root, 'node_modules', '@godwit', 'core'));
  symlinkSync(join(repository, 'docs'), join(root, 'docs'));
  const mutants: Mutant[] = [];
  const api = new API({ cwd: repository });
  try {
    const project = join(from, 'tsconfig.json');
    const program = api.updateSnapshot({ openProject: project }).getProject(project)?.program;
    for (const file of files) {
      const source = program?.getSourceFile(join(from, 'src', file));
      if (source === undefined) throw new Error(`${project} has no file src/${file}`);
      const made = instrument(source, file, mutants.length);
      mutants.push(...made.mutants);
      writeFileSync(join(to, 'dist', file.replace(/\.ts$/, '.js')), made.code);
    }
  } finally {
    api.close();
  }
  return { root, mutants, remove: () => rmSync(root, { recursive: true, force: true }) };
}
