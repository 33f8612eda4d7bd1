import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';

/** The repository; the tests run compiled, in test/dist/unit. */
const ROOT = join(import.meta.dirname, '..', '..', '..');
const PAGE = readFileSync(join(ROOT, 'docs', 'qemu-map.md'), 'utf8');

/** Every name of QEMU, by the heading of its table; `npm run test:judge` compares these names with a real QEMU. */
const { qemu, ...names } = JSON.parse(readFileSync(join(ROOT, 'test', 'unit', 'qemu-names.json'), 'utf8')) as {
  readonly qemu: string;
} & Readonly<Record<string, readonly string[]>>;

interface Row {
  readonly name: string;
  readonly here: string;
  readonly remark: string;
}

/** The rows of the table below a heading. */
function rowsOf(heading: string): Row[] {
  const section = PAGE.split(/^## /m).find((text) => text.startsWith(`${heading}\n`)) ?? '';
  return [...section.matchAll(/^\| `([^`]+)` \|(.*)\|(.*)\|$/gm)].map(([, name, here, remark]) => ({
    name: name as string,
    here: (here as string).trim(),
    remark: (remark as string).trim(),
  }));
}

test('the page names the version', () => {
  expect(PAGE).toContain(`QEMU ${qemu}`);
  expect(Object.keys(names)).toEqual(['Commands', 'Capabilities', 'Parameters', 'States', 'Statistics', 'Events']);
});

describe.each(Object.keys(names))('%s', (heading) => {
  const rows = rowsOf(heading);

  test('has a row for each name of QEMU, once, and no others', () => {
    expect(rows.map(({ name }) => name).sort()).toEqual([...(names[heading] as readonly string[])].sort());
  });

  test('says of each what it is called here, or why not', () => {
    const silent = rows.filter(({ here, remark }) => here === '' && !/^(\*\*no\*\*|yours|not needed)/.test(remark));
    expect(silent).toEqual([]);
  });
});

test('every member of the API that the page names is there', () => {
  const sources = ['core', 'transport', 'linux', 'workers', 'vfio'].flatMap((name) => {
    const folder = join(ROOT, 'packages', name, 'dist');
    const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.d.ts'));
    return files.map((file) => readFileSync(join(folder, file), 'utf8'));
  });
  const named = new Set([...PAGE.matchAll(/`([A-Z]\w+)\.(\w+)`/g)].map(([, type, member]) => `${type}.${member}`));
  expect(named.size).toBeGreaterThan(30);
  const missing = [...named].filter((name) => {
    const [type, member] = name.split('.');
    const declared = new RegExp(`(?:interface|class) ${type}\\b[^{]*\\{([\\s\\S]*?)^\\}`, 'm');
    const body = sources.map((source) => declared.exec(source)?.[1]).find((text) => text !== undefined);
    return body === undefined || !new RegExp(`^    (?:readonly |get )?${member}\\b`, 'm').test(body);
  });
  expect(missing).toEqual([]);
});
