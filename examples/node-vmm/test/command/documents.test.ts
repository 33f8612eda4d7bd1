import { readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { EXIT } from '../../dist/command/exit-status.js';
import { COMMANDS } from '../../dist/control/check-request.js';

const page = (name: string): string => readFileSync(new URL(`../../../../docs/${name}`, import.meta.url), 'utf8');

test('docs/node-vmm.md has every exit status', () => {
  const rows = [...page('node-vmm.md').matchAll(/^\| (\d+) \|/gm)].map(([, status]) => Number(status));
  expect(rows).toEqual(Object.values(EXIT));
});

test('docs/node-vmm-control.md has every command, and all that it takes', () => {
  const rows = [...page('node-vmm-control.md').matchAll(/^\| (`\w+`(?:, `\w+`)*) \| (.*?) ?\|/gm)];
  const told = rows.flatMap(([, names = '', takes = '']) => {
    const fields = [...takes.replace(/\(.*?\)/g, '').matchAll(/`(\w+)`/g)].map(([, field]) => field).sort();
    return [...names.matchAll(/`(\w+)`/g)].map(([, name]) => [name, fields]);
  });
  const known = Object.entries(COMMANDS).map(([name, fields]) => [name, Object.keys(fields).sort()]);
  expect(Object.fromEntries(told)).toEqual(Object.fromEntries(known));
});
