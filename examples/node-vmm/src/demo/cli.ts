#!/usr/bin/env node
/**
 * Prints the first line of the picture before anything is loaded, since loading the modules of the demo takes noticeable time.
 * `main.ts` is the demo.
 */
const isPlain = process.argv.some((argument) => ['--json', '--plain', '--help', '-h'].includes(argument));
const live = process.stdout.isTTY && !isPlain && process.env['TERM'] !== 'dumb';
if (live) process.stdout.write('godwit live migration');
const { main } = await import('./main.js');
// The picture replaces the line.
if (live) process.stdout.write('\r\x1b[2K');
await main();

export {};
