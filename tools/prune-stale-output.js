/**
 * Deletes the output of `tsc -b` for sources that no longer exist. tsc leaves such files behind, so that a deleted test
 * would still run, and a deleted module would still be published. Files that tsc did not make are left alone.
 */
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';

const OUTPUT = /\.(js|js\.map|d\.ts|d\.ts\.map)$/;

const root = resolve(process.argv[2] ?? '.');
for (const { path } of readConfig(join(root, 'tsconfig.json')).references) {
  const project = join(root, path);
  const { rootDir, outDir } = readConfig(join(project, 'tsconfig.json')).compilerOptions;
  const sources = join(project, rootDir);
  const output = join(project, outDir);
  if (!existsSync(output)) continue;
  for (const file of readdirSync(output, { recursive: true, encoding: 'utf8' })) {
    if (!OUTPUT.test(file) || existsSync(join(sources, file.replace(OUTPUT, '.ts')))) continue;
    rmSync(join(output, file));
    process.stderr.write(`removed ${relative(root, join(output, file))}: its source is gone\n`);
  }
}

/** @param {string} path */
function readConfig(path) {
  return JSON.parse(readFileSync(path, 'utf8'));
}
