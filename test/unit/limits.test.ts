import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';

/** The repository; the tests run compiled, in test/dist/unit. */
const ROOT = join(import.meta.dirname, '..', '..', '..');

const PAGE = readFileSync(join(ROOT, 'docs', 'limits.md'), 'utf8');

/** A row of a table: the limited thing, the limit, what happens beyond it, the file, and the name in the file. */
const ROW = /^\| (?<what>[^|]+) \| (?<limit>[^|]+) \|[^|]*\| `(?<file>[^`]+)` `(?<name>\w+)` \|$/;

const UNITS: Readonly<Record<string, number>> = { '': 1, KiB: 2 ** 10, MiB: 2 ** 20, ms: 1, s: 1000 };

const rows = PAGE.split('\n').flatMap((line) => {
  const { what, limit, file, name } = ROW.exec(line)?.groups ?? {};
  return what && limit && file && name ? [{ what, limit, file, name }] : [];
});

/** `10 s`, `65 536`, `1 MiB` as bytes, milliseconds or a count. */
function inDocument(limit: string): number {
  const [, digits = '', unit = ''] = /^([\d ]*\d) ?([A-Za-z]*)$/.exec(limit) ?? [];
  return Number(digits.replaceAll(' ', '')) * (UNITS[unit] ?? Number.NaN);
}

/** A constant, a default behind `??` or of a parameter, or a property: `const NAME = 2 ** 20;`, `name ?? 10_000`. */
function inSource(file: string, name: string): number {
  const source = readFileSync(join(ROOT, file), 'utf8');
  const number = String.raw`(\d[\d_]*(?: \*\*? \d[\d_]*)*)`;
  const found = [
    new RegExp(`const ${name} = ${number};`),
    new RegExp(`\\b${name} ?\\?\\? ${number}`),
    new RegExp(`\\b${name}: options\\.\\w+ \\?\\? ${number}`),
    new RegExp(`\\b${name} = ${number}[,;]`),
    new RegExp(`\\b${name}: ${number},`),
  ].flatMap((form) => form.exec(source)?.[1] ?? [])[0];
  if (found === undefined) return Number.NaN;
  const factors = found
    .replaceAll('_', '')
    .replaceAll(/(\d+) \*\* (\d+)/g, (_, base, power) => String(Number(base) ** Number(power)));
  return factors.split(' * ').reduce((product, factor) => product * Number(factor), 1);
}

test('every row of a table names where its limit is set', () => {
  const all = PAGE.split('\n').filter((line) => line.startsWith('| ') && !line.startsWith('| what |'));
  expect(rows).toHaveLength(all.length);
  expect(rows.length).toBeGreaterThan(40);
});

test.each(rows)('$what: $limit', ({ limit, file, name }) => {
  expect(inDocument(limit)).toBeGreaterThan(0);
  expect({ name, value: inSource(file, name) }).toEqual({ name, value: inDocument(limit) });
});
