import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, isAbsolute, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import type { DebianTree } from '../kernel/harness/debian-packages.js';
import { writeInitramfs } from '../kernel/harness/initramfs.js';
import { pathFolders, programIn, programLookup } from '../kernel/harness/programs.js';

/** The kernel suite uses the machine's programs where they exist, and unpacks the others: it finds each of them as a file. */

const PROGRAMS = ['qemu-system-x86_64', 'busybox', 'flex', 'bison', 'bc', 'm4'];

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'godwit-programs-'));
});
afterEach(() => {
  rmSync(root, { recursive: true });
});

/** Makes a program whose content is its own path, so that the test can identify it. */
function program(path: string): string {
  const full = join(root, path);
  mkdirSync(dirname(full), { recursive: true });
  writeFileSync(full, full);
  chmodSync(full, 0o755);
  return full;
}

/** The lookup on a machine that has these programs, with the others unpacked. */
function machineWith(installed: readonly string[]): (name: string) => string {
  for (const name of PROGRAMS) {
    if (installed.includes(name)) program(`machine/bin/${name}`);
    else program(`cache/${name === 'busybox' ? 'bin' : 'usr/bin'}/${name}`);
  }
  return programLookup(join(root, 'cache'), `${join(root, 'machine/bin')}:/nowhere`);
}

test.each([
  ['all of them', PROGRAMS],
  ['none of them', []],
  ['busybox alone', ['busybox']],
  ['all but busybox', PROGRAMS.filter((name) => name !== 'busybox')],
])('a machine that has %s: each is found as a file that can be read', (_, installed) => {
  const lookup = machineWith(installed);
  for (const name of PROGRAMS) {
    const path = lookup(name);
    expect(isAbsolute(path)).toBe(true);
    expect(path).toContain(installed.includes(name) ? 'machine/bin' : 'cache/');
    expect(readFileSync(path, 'utf8')).toBe(path);
  }
});

test.each([
  ['has busybox', ['busybox']],
  ['has not', []],
])('the first file system of the test machine has the program itself, where the machine %s', (_, installed) => {
  const lookup = machineWith(installed);
  const path = join(root, 'initramfs');
  writeInitramfs(path, { program: lookup } as DebianTree, []);
  expect(readFileSync(path, 'latin1')).toContain(lookup('busybox'));
});

test('what was unpacked goes before what the machine has; a link counts, a folder and a text file do not', () => {
  const own = program('a/tool');
  program('b/tool');
  mkdirSync(join(root, 'c/tool'), { recursive: true });
  mkdirSync(join(root, 'd'));
  writeFileSync(join(root, 'd/tool'), 'not executable');
  mkdirSync(join(root, 'e'));
  symlinkSync(own, join(root, 'e/tool'));
  const folders = (...names: string[]) => names.map((name) => join(root, name));
  expect(programIn(folders('c', 'd', 'a', 'b'), 'tool')).toBe(own);
  expect(programIn(folders('missing', 'e', 'b'), 'tool')).toBe(join(root, 'e/tool'));
  expect(() => programIn(folders('c', 'd'), 'tool')).toThrow(
    /there is no program tool in .*: install Debian's package/,
  );
});

test('a PATH that is not there, or leads into the current folder', () => {
  expect(pathFolders(undefined)).toEqual([]);
  expect(pathFolders('/a::.:b/c:/d')).toEqual(['/a', '/d']);
  // Programs that every machine has are found, whatever PATH says.
  expect(programLookup(root, '')('sh')).toMatch(/^\/(usr\/)?bin\/sh$/);
});
