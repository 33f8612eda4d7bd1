import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { KernelLayout, StructLayout } from '../layouts/kernel-layout.js';

/** Some of the C library's headers define more with `_GNU_SOURCE`. */
const PREAMBLE = '#define _GNU_SOURCE\n#include <stddef.h>\n#include <sys/ioctl.h>\n';

export interface Comparison {
  /** Sizes, offsets and numbers that were compared. */
  readonly checked: number;
  /** The differences from the compiler's answers, in words. */
  readonly wrong: readonly string[];
  /** Names (`struct kvm_regs`, `KVM_RUN`, `<linux/kvm.h>`) that the headers do not have. */
  readonly missing: readonly string[];
}

/** This machine's compiler, and Debian's for arm64 (`gcc-aarch64-linux-gnu`, whose headers are in `linux-libc-dev-arm64-cross`). */
const COMPILERS = { host: 'cc', arm64: 'aarch64-linux-gnu-gcc' } as const;

/** The name of the compiler, of this machine or for arm64, or null when there is none. */
export function findCompiler(target: keyof typeof COMPILERS = 'host'): string | null {
  const compiler = COMPILERS[target];
  try {
    execFileSync(compiler, ['--version'], { stdio: 'ignore' });
    return compiler;
  } catch {
    return null;
  }
}

export function isStruct(layout: KernelLayout): layout is StructLayout {
  return 'struct' in layout;
}

export function nameOf(layout: KernelLayout): string {
  return isStruct(layout) ? `struct ${layout.struct}` : layout.define;
}

/**
 * Compiles a C program against the machine's headers (those in `includeFolder` first, which may be the kernel's own) and compares its
 * answers with the tables.
 */
export function compareWithHeaders(
  compiler: string,
  layouts: readonly KernelLayout[],
  includeFolder?: string,
): Comparison {
  const folder = mkdtempSync(join(tmpdir(), 'godwit-layouts-'));
  const cc = { compiler, folder, options: includeFolder === undefined ? [] : ['-D__user=', '-I', includeFolder] };
  try {
    const missing: string[] = [];
    const wrong: string[] = [];
    let checked = 0;
    for (const header of new Set(layouts.map((layout) => layout.header))) {
      const mine = layouts.filter((layout) => layout.header === header);
      const include = `${PREAMBLE}#include <${header}>\n`;
      const text = preprocess(cc, include, '-P');
      if (text === null) {
        missing.push(`<${header}>`);
        continue;
      }
      const macros = preprocess(cc, include, '-dM') ?? '';
      const known = mine.filter((layout) => {
        const found = isStruct(layout)
          ? new RegExp(`struct\\s+${layout.struct}\\s*\\{`).test(text)
          : new RegExp(`#define\\s+${layout.define}\\b`).test(macros) ||
            new RegExp(`\\b${layout.define}\\b`).test(text);
        if (!found) missing.push(nameOf(layout));
        return found;
      });
      const asked = known.flatMap(questions);
      const answers = compile(cc, include, asked);
      for (const [expression, expected] of asked) {
        checked++;
        const answer = answers.get(expression);
        if (answer !== expected) wrong.push(`${header}: ${expression} is ${answer}, the table says ${expected}`);
      }
    }
    return { checked, wrong, missing };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

interface CCompiler {
  readonly compiler: string;
  readonly folder: string;
  readonly options: readonly string[];
}

type Question = readonly [expression: string, expected: number];

/** The questions to the compiler about a layout, and the expected answers. */
function questions(layout: KernelLayout): Question[] {
  if (!isStruct(layout)) return [[layout.define, layout.value]];
  const type = `struct ${layout.struct}`;
  const ofFields = Object.entries(layout.fields).flatMap(([field, [offset, size]]): Question[] => [
    [`offsetof(${type}, ${field})`, offset],
    [`sizeof(((${type} *)0)->${field})`, size],
  ]);
  return layout.grows === true ? ofFields : [[`sizeof(${type})`, layout.size], ...ofFields];
}

/**
 * Makes the compiler write each number into its assembly, from which it is read: no program is run, so that the compiler may be one for
 * another processor.
 */
function compile(cc: CCompiler, include: string, asked: readonly Question[]): Map<string, number> {
  const source = join(cc.folder, 'layouts.c');
  const assembly = join(cc.folder, 'layouts.s');
  const lines = asked.map(
    ([expression], i) =>
      `  __asm__ volatile("\\n.ascii \\"-> ${i} %0\\"" : : "i" ((unsigned long long)(${expression})));`,
  );
  writeFileSync(source, `${include}int main(void) {\n${lines.join('\n')}\n  return 0;\n}\n`);
  execFileSync(cc.compiler, ['-w', '-S', ...cc.options, '-o', assembly, source], { stdio: 'pipe' });
  const answers = new Map<string, number>();
  for (const [, i, number] of readFileSync(assembly, 'utf8').matchAll(/-> (\d+) [$#]?(-?\d+)/g)) {
    answers.set((asked[Number(i)] as Question)[0], Number(BigInt.asUintN(64, BigInt(number as string))));
  }
  return answers;
}

function preprocess(cc: CCompiler, include: string, option: string): string | null {
  const source = join(cc.folder, 'include.c');
  writeFileSync(source, include);
  try {
    return execFileSync(cc.compiler, ['-E', option, ...cc.options, source], { encoding: 'utf8', stdio: 'pipe' });
  } catch {
    return null;
  }
}
