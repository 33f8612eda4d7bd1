import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';

/** The repository; the tests run compiled, in test/dist/unit. */
const ROOT = join(import.meta.dirname, '..', '..', '..');

const LOCK = readFileSync(join(ROOT, 'package-lock.json'), 'utf8');

interface Lock {
  readonly packages: Readonly<Record<string, { readonly link?: boolean; readonly integrity?: string }>>;
}

type Asked = Readonly<
  Partial<
    Record<
      'dependencies' | 'devDependencies' | 'peerDependencies' | 'optionalDependencies',
      Readonly<Record<string, string>>
    >
  >
>;

// npm 10 removes `libc` where npm 11 has written it, and npm 11 does not add it again: without `libc`, `npm install` leaves a clone
// unchanged with either version. `npx npm@10 install --package-lock-only` removes it.
test('the lock file is one that npm 10 and npm 11 leave as it is', () => {
  expect(LOCK.match(/"libc"/g) ?? []).toEqual([]);
});

test('the lock file says of each package what it must be', () => {
  const { packages } = JSON.parse(LOCK) as Lock;
  const unsure = Object.entries(packages).filter(
    ([path, { link, integrity }]) => path.includes('node_modules/') && link !== true && integrity === undefined,
  );
  expect(unsure.map(([path]) => path)).toEqual([]);
});

test('the lock file has the dependencies that each workspace asks for', () => {
  const { packages } = JSON.parse(LOCK) as { packages: Readonly<Record<string, Asked>> };
  const workspaces = Object.keys(packages).filter((path) => !path.includes('node_modules/'));
  expect(workspaces.length).toBeGreaterThan(5);
  for (const path of workspaces) {
    const asked = JSON.parse(readFileSync(join(ROOT, path, 'package.json'), 'utf8')) as Asked;
    for (const kind of ['dependencies', 'devDependencies', 'peerDependencies', 'optionalDependencies'] as const) {
      expect({ path, [kind]: packages[path]?.[kind] }).toEqual({ path, [kind]: asked[kind] });
    }
  }
});
