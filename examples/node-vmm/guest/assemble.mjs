/**
 * Assembles memory-guest.S into src/guest/image.ts: the image's bytes, their SHA-256 and the symbols.
 *
 *     node guest/assemble.mjs           writes src/guest/image.ts
 *     node guest/assemble.mjs --check   writes nothing; exit code 1 when image.ts is not what the source gives
 *
 * Needs GNU as and ld (binutils) on an x86-64 machine, or a cross binutils named by AS, LD and NM. The image is committed,
 * so that nobody needs an assembler to run the example. Exit code 2: there is no assembler.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Must equal IMAGE_ADDRESS in src/guest/layout.ts; a test compares them. */
const IMAGE_ADDRESS = 0x10_0000;

const sourceDirectory = fileURLToPath(new URL('.', import.meta.url));
const target = fileURLToPath(new URL('../src/guest/image.ts', import.meta.url));
const tools = { as: process.env.AS ?? 'as', ld: process.env.LD ?? 'ld', nm: process.env.NM ?? 'nm' };

function assemble() {
  const scratch = mkdtempSync(join(tmpdir(), 'godwit-guest-'));
  try {
    const object = join(scratch, 'guest.o');
    const elf = join(scratch, 'guest.elf');
    const binary = join(scratch, 'guest.bin');
    const address = `0x${IMAGE_ADDRESS.toString(16)}`;
    const run = (tool, ...args) => execFileSync(tool, args, { cwd: sourceDirectory, encoding: 'utf8' });
    run(tools.as, '--64', '--fatal-warnings', '-o', object, 'memory-guest.S');
    run(tools.ld, '-m', 'elf_x86_64', `-Ttext=${address}`, '-o', elf, object);
    run(tools.ld, '-m', 'elf_x86_64', `-Ttext=${address}`, '--oformat', 'binary', '-o', binary, object);
    const symbols = run(tools.nm, '--defined-only', '--numeric-sort', elf)
      .split('\n')
      .map((row) => /^([0-9a-f]+) [Tt] (\w+)$/.exec(row))
      .filter((match) => match !== null && !match[2].startsWith('__'))
      .map((match) => [match[2], Number.parseInt(match[1], 16)]);
    return { bytes: readFileSync(binary), symbols };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function toTypeScript({ bytes, symbols }) {
  const base64 = bytes.toString('base64').match(/.{1,108}/g) ?? [];
  return `// Generated from guest/*.S by guest/assemble.mjs. Do not edit: change the source and run that again.

/** SHA-256 of the image. */
export const GUEST_IMAGE_SHA256 = '${createHash('sha256').update(bytes).digest('hex')}';

/** Length of the image in bytes. */
export const GUEST_IMAGE_BYTES = ${bytes.length};

/** Guest-physical addresses of the labels, for reading a vCPU's RIP. */
export const GUEST_SYMBOLS: Readonly<Record<string, number>> = {
${symbols.map(([name, address]) => `  ${name}: 0x${address.toString(16)},`).join('\n')}
};

const BASE64 =
${base64.map((row) => `  '${row}'`).join(' +\n')};

/** A fresh copy of the image, to be placed at IMAGE_ADDRESS. The guest never writes inside it. */
export function guestImage(): Uint8Array {
  return Uint8Array.from(atob(BASE64), (character) => character.charCodeAt(0));
}
`;
}

let text;
try {
  text = toTypeScript(assemble());
} catch (error) {
  if (error?.code === 'ENOENT') {
    console.error(`No assembler: ${error.path} not found. Install binutils, or set AS, LD and NM to a cross binutils.`);
    process.exit(2);
  }
  throw error;
}

if (process.argv.includes('--check')) {
  const current = readFileSync(target, 'utf8');
  if (current !== text) {
    console.error('src/guest/image.ts is not what guest/*.S assembles to. Run: node guest/assemble.mjs');
    process.exit(1);
  }
  console.log('src/guest/image.ts is what guest/*.S assembles to.');
} else {
  writeFileSync(target, text);
  console.log(`wrote ${target}`);
}
