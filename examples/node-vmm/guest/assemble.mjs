/**
 * Assembles the guests: memory-guest.S into src/guest/image.ts, sweep.S into src/guest/sweep-bytes.ts. Each gets the
 * image's bytes, their SHA-256 and the symbols.
 *
 *     node guest/assemble.mjs           writes both files
 *     node guest/assemble.mjs --check   writes nothing; exit code 1 when one is not what the source gives
 *
 * Needs GNU as and ld (binutils) on an x86-64 machine, or a cross binutils named by AS, LD and NM. The images are
 * committed, so that nobody needs an assembler to run the example. Exit code 2: there is no assembler.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The addresses must equal IMAGE_ADDRESS in src/guest/layout.ts and BOOT_IMAGE_ADDRESS; tests compare them. */
const PROGRAMS = [
  {
    source: 'memory-guest.S',
    target: 'image.ts',
    from: 'guest/*.S',
    address: 0x10_0000,
    format: { as: '--64', ld: 'elf_x86_64' },
    name: 'GUEST',
    use: `/** A fresh copy of the image, to be placed at IMAGE_ADDRESS. The guest never writes inside it. */
export function guestImage(): Uint8Array {`,
  },
  {
    source: 'sweep.S',
    target: 'sweep-bytes.ts',
    from: 'guest/sweep.S',
    address: 0x7c00,
    format: { as: '--32', ld: 'elf_i386' },
    name: 'SWEEP',
    use: `/** A fresh copy of the image with the parameters of the source. */
export function sweepBytes(): Uint8Array {`,
  },
];

const sourceDirectory = fileURLToPath(new URL('.', import.meta.url));
const targetOf = ({ target }) => fileURLToPath(new URL(`../src/guest/${target}`, import.meta.url));
const tools = { as: process.env.AS ?? 'as', ld: process.env.LD ?? 'ld', nm: process.env.NM ?? 'nm' };

function assemble({ source, address: number, format }) {
  const scratch = mkdtempSync(join(tmpdir(), 'godwit-guest-'));
  try {
    const object = join(scratch, 'guest.o');
    const elf = join(scratch, 'guest.elf');
    const binary = join(scratch, 'guest.bin');
    const address = `0x${number.toString(16)}`;
    const run = (tool, ...args) => execFileSync(tool, args, { cwd: sourceDirectory, encoding: 'utf8' });
    run(tools.as, format.as, '--fatal-warnings', '-o', object, source);
    run(tools.ld, '-m', format.ld, `-Ttext=${address}`, '-o', elf, object);
    run(tools.ld, '-m', format.ld, `-Ttext=${address}`, '--oformat', 'binary', '-o', binary, object);
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

function toTypeScript({ from, name, use }, { bytes, symbols }) {
  const base64 = bytes.toString('base64').match(/.{1,108}/g) ?? [];
  return `// Generated from ${from} by guest/assemble.mjs. Do not edit: change the source and run that again.

/** SHA-256 of the image. */
export const ${name}_IMAGE_SHA256 = '${createHash('sha256').update(bytes).digest('hex')}';

/** Length of the image in bytes. */
export const ${name}_IMAGE_BYTES = ${bytes.length};

/** Guest-physical addresses of the labels, for reading a vCPU's RIP. */
export const ${name}_SYMBOLS: Readonly<Record<string, number>> = {
${symbols.map(([label, address]) => `  ${label}: 0x${address.toString(16)},`).join('\n')}
};

const BASE64 =
${base64.map((row) => `  '${row}'`).join(' +\n')};

${use}
  return Uint8Array.from(atob(BASE64), (character) => character.charCodeAt(0));
}
`;
}

let texts;
try {
  texts = PROGRAMS.map((program) => ({ program, text: toTypeScript(program, assemble(program)) }));
} catch (error) {
  if (error?.code === 'ENOENT') {
    console.error(`No assembler: ${error.path} not found. Install binutils, or set AS, LD and NM to a cross binutils.`);
    process.exit(2);
  }
  throw error;
}

for (const { program, text } of texts) {
  if (!process.argv.includes('--check')) {
    writeFileSync(targetOf(program), text);
    console.log(`wrote ${targetOf(program)}`);
  } else if (readFileSync(targetOf(program), 'utf8') === text) {
    console.log(`src/guest/${program.target} is what ${program.from} assembles to.`);
  } else {
    console.error(`src/guest/${program.target} is not what ${program.from} assembles to. Run: node guest/assemble.mjs`);
    process.exitCode = 1;
  }
}
