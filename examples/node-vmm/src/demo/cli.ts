#!/usr/bin/env node
/**
 * The first line of the picture, before anything is loaded: the modules of the demo take longer than somebody likes to look at nothing.
 * `main.ts` is the demo.
 */
const isPlain = process.argv.some((argument) => ['--json', '--plain', '--help', '-h'].includes(argument));
const live = process.stdout.isTTY && !isPlain && process.env['TERM'] !== 'dumb';
if (live) process.stdout.write('godwit live migration');
const { main } = await import('./main.js');
// The picture is drawn where the line stands.
if (live) process.stdout.write('\r\x1b[2K');
await main();

export {};
