import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ERROR_CODES, type ErrorCode, GodwitError } from '@godwit/core';
import { describe, expect, test } from '@jest/globals';

/** The repository; the tests run compiled, in test/dist/unit. */
const ROOT = join(import.meta.dirname, '..', '..', '..');

const PAGE = readFileSync(join(ROOT, 'docs', 'errors.md'), 'utf8');

/** The page's text under the heading of each code, on one line. */
const sections = new Map(
  PAGE.split(/^### /m)
    .slice(1)
    .map((section) => {
      const [heading = '', ...text] = section.split(/\n(?:## .*)?/);
      return [heading.replaceAll('`', ''), text.join(' ').trim()] as const;
    }),
);

/** The codes that the sources of a workspace have in quotation marks. */
function codesIn(folder: string): string[] {
  return readdirSync(join(ROOT, folder, 'src'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .flatMap((name) => readFileSync(join(ROOT, folder, 'src', name), 'utf8').match(/'GODWIT_[A-Z_]+'/g) ?? [])
    .map((quoted) => quoted.slice(1, -1));
}

/** A code that no error has, but the event `limit-unreachable`. */
const CODE_OF_AN_EVENT = 'GODWIT_LIMIT_UNREACHABLE';

const workspaces = [...readdirSync(join(ROOT, 'packages')).map((name) => `packages/${name}`), 'examples/node-vmm'];

test('every code has a section, and every section is of a code', () => {
  expect([...sections.keys()].sort()).toEqual([...ERROR_CODES].sort());
  // The map would not show a code with two headings.
  expect(PAGE.match(/^### /gm)).toHaveLength(ERROR_CODES.length);
});

test('the sources use every code, and none beside them', () => {
  const used = workspaces.flatMap(codesIn).filter((code) => code !== CODE_OF_AN_EVENT);
  expect([...new Set(used)].sort()).toEqual([...ERROR_CODES].sort());
  // The list of codes itself contains each code once.
  for (const code of ERROR_CODES) expect([code, used.filter((one) => one === code).length > 1]).toEqual([code, true]);
});

describe('the section of', () => {
  test.each([...ERROR_CODES])('%s says what it means, what to do, and whether it passes', (code: ErrorCode) => {
    const { means, act, passes } =
      /^Means: (?<means>.{20,}?\.) Do: (?<act>.{8,}?\.) Passes: (?<passes>yes|no)[.,]/.exec(sections.get(code) ?? '')
        ?.groups ?? {};
    expect([means, act]).toEqual([expect.any(String), expect.any(String)]);
    expect(passes).toBe(new GodwitError(code, '').retry ? 'yes' : 'no');
  });
});
