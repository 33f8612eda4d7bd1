import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DefineLayout, KernelLayout, StructLayout } from '@godwit/linux';
import * as linux from '@godwit/linux';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { testWhen } from './when-usable.js';

/** Every exported table of the package. */
const tables = Object.entries(linux).filter(([name]) => name.endsWith('Layouts')) as [
  string,
  readonly KernelLayout[],
][];
const layouts = tables.flatMap(([, table]) => table);
function isStruct(layout: KernelLayout): layout is StructLayout {
  return 'struct' in layout;
}
function nameOf(layout: KernelLayout): string {
  return isStruct(layout) ? `struct ${layout.struct}` : layout.define;
}

/** Not yet in the headers of Linux 6.1, which Debian 12 has. Anything else that is missing is a name we got wrong. */
const SINCE_6_2: ReadonlySet<string> = new Set([
  ...linux.pagemapScanLayouts.map(nameOf),
  'UFFD_FEATURE_WP_UNPOPULATED',
  'UFFD_FEATURE_WP_ASYNC',
]);

/** In the C library's headers only with this. */
const PREAMBLE = '#define _GNU_SOURCE\n#include <stddef.h>\n#include <stdio.h>\n#include <sys/ioctl.h>\n';

let directory = '';
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'godwit-layouts-'));
});
afterAll(() => rmSync(directory, { recursive: true }));

test('the tables are all here', () => {
  expect(tables.map(([name]) => name).sort()).toEqual([
    'kvmDirtyLogLayouts',
    'kvmLayouts',
    'libcLayouts',
    'pagemapScanLayouts',
    'userfaultfdLayouts',
  ]);
  expect(layouts.length).toBeGreaterThan(80);
});

test('an ioctl number carries the size of its struct', () => {
  const sizes = new Map(layouts.filter(isStruct).map(({ struct, size }) => [struct, size]));
  const requests = layouts.filter(
    (layout): layout is DefineLayout => !isStruct(layout) && layout.argument !== undefined,
  );
  expect(requests.length).toBeGreaterThan(6);
  for (const { define, value, argument } of requests) {
    // asm-generic/ioctl.h: _IOC_SIZESHIFT 16, _IOC_SIZEBITS 14
    expect([define, (value >>> 16) & 0x3fff]).toEqual([define, sizes.get(argument as string)]);
  }
});

const compiler = findCompiler();
const testCompiler = testWhen(
  compiler === null ? { usable: false, reason: 'there is no C compiler, cc' } : { usable: true },
);
testCompiler('the compiler agrees with every size, offset and number that its headers know', () => {
  const headers = [...new Set(layouts.map(({ header }) => header))];
  const missing: string[] = [];
  const wrong: string[] = [];
  let checked = 0;
  for (const header of headers) {
    const mine = layouts.filter((layout) => layout.header === header);
    const include = `${PREAMBLE}#include <${header}>\n`;
    const text = preprocess(include, '-P');
    if (text === null) {
      missing.push(`<${header}>`);
      continue;
    }
    const macros = preprocess(include, '-dM') ?? '';
    const known = mine.filter((layout) => {
      const found = isStruct(layout)
        ? new RegExp(`struct\\s+${layout.struct}\\s*\\{`).test(text)
        : new RegExp(`#define\\s+${layout.define}\\b`).test(macros) || new RegExp(`\\b${layout.define}\\b`).test(text);
      if (!found) missing.push(nameOf(layout));
      return found;
    });
    const answers = compileAndRun(include, known.flatMap(questions));
    for (const [expression, expected] of known.flatMap(questions)) {
      checked++;
      const answer = answers.get(expression);
      if (answer !== expected) wrong.push(`${header}: ${expression} is ${answer}, the table says ${expected}`);
    }
  }
  if (missing.length > 0)
    process.stderr.write(`not in this machine's headers, so not compared: ${missing.join(', ')}\n`);
  expect(wrong).toEqual([]);
  expect(missing.filter((name) => !SINCE_6_2.has(name))).toEqual([]);
  expect(checked).toBeGreaterThan(150);
});

/** What to ask the compiler about a layout, and the answer that we expect. */
function questions(layout: KernelLayout): [expression: string, expected: number][] {
  if (!isStruct(layout)) return [[layout.define, layout.value]];
  const type = `struct ${layout.struct}`;
  const ofFields = Object.entries(layout.fields).flatMap(([field, [offset, size]]): [string, number][] => [
    [`offsetof(${type}, ${field})`, offset],
    [`sizeof(((${type} *)0)->${field})`, size],
  ]);
  return [[`sizeof(${type})`, layout.size], ...ofFields];
}

function compileAndRun(include: string, asked: readonly [expression: string, expected: number][]): Map<string, number> {
  const prints = asked.map(([expression]) => `  printf("%llu\\n", (unsigned long long)(${expression}));`);
  const source = join(directory, 'layouts.c');
  const program = join(directory, 'layouts');
  writeFileSync(source, `${include}int main(void) {\n${prints.join('\n')}\n  return 0;\n}\n`);
  execFileSync(compiler as string, ['-w', '-o', program, source]);
  const numbers = execFileSync(program, { encoding: 'utf8' }).trim().split('\n').map(Number);
  return new Map(asked.map(([expression], i) => [expression, numbers[i] as number]));
}

function preprocess(include: string, option: string): string | null {
  const source = join(directory, 'include.c');
  writeFileSync(source, include);
  try {
    return execFileSync(compiler as string, ['-E', option, source], { encoding: 'utf8', stdio: 'pipe' });
  } catch {
    return null;
  }
}

function findCompiler(): string | null {
  try {
    execFileSync('cc', ['--version'], { stdio: 'ignore' });
    return 'cc';
  } catch {
    return null;
  }
}
