/**
 * Builds each thread of `packages/workers` into one file, `threads/NAME.js`, from what `tsc -b` has built: a thread that loads a hundred
 * modules one by one takes three times as long to start, while the guest waits.
 *
 * `--check`: writes nothing, and fails when a file is not what it would write.
 */
import { readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { build } from 'esbuild';

const root = join(import.meta.dirname, '..');
const folder = join(root, 'packages', 'workers');
const check = process.argv.includes('--check');

const { outputFiles } = await build({
  absWorkingDir: root,
  entryPoints: ['channel-thread.js', 'missing/service-thread.js', 'protect/protect-thread.js'].map((file) =>
    join(folder, 'dist', file),
  ),
  entryNames: '[name]',
  outdir: join(folder, 'threads'),
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  // These packages load native files from their own folders. The native file of msgpackr is for long strings, which frames do not have.
  external: ['koffi', 'msgpackr-extract'],
  define: { 'process.env.MSGPACKR_NATIVE_ACCELERATION_DISABLED': '"true"' },
  sourcemap: true,
  logLevel: 'warning',
  ...(check ? { write: false } : {}),
});
for (const { path, text } of outputFiles ?? []) {
  if (text === readFileSync(path, 'utf8')) continue;
  process.stderr.write(`${relative(root, path)} is not what the sources say: npm run build\n`);
  process.exitCode = 1;
}
