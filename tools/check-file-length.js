/** Checks the length of source files: a file should hold one idea, and one of more than 600 lines fails the check. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';

const LONGEST = 600;

const listed = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
  encoding: 'utf8',
});
const sources = listed.split('\0').filter((path) => /\.(ts|js|c|S)$/.test(path) && existsSync(path));
const tooLong = sources
  .map((path) => ({ path, lines: readFileSync(path, 'utf8').split('\n').length - 1 }))
  .filter(({ lines }) => lines > LONGEST);

for (const { path, lines } of tooLong) process.stderr.write(`${path}: ${lines} lines; split it (at most ${LONGEST})\n`);
if (tooLong.length > 0) process.exitCode = 1;
else process.stdout.write(`${sources.length} source files, none longer than ${LONGEST} lines\n`);
