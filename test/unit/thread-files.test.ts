import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';

/** The repository; the tests run compiled, in test/dist/unit. */
const ROOT = join(import.meta.dirname, '..', '..', '..');

test('the files of the threads are what the sources say', () => {
  execFileSync(process.execPath, [join(ROOT, 'tools', 'bundle-threads.js'), '--check']);
});

test.each(['channel-thread', 'service-thread', 'protect-thread'])(
  '%s is one file: beside Node it imports koffi alone',
  (name) => {
    const text = readFileSync(join(ROOT, 'packages', 'workers', 'threads', `${name}.js`), 'utf8');
    const imports = Array.from(
      text.matchAll(/^(?:import|export) [^'"`;]*? ?from "([^"]+)";$|^import "([^"]+)";$/gm),
      (match) => String(match[1] ?? match[2]).replace(/^node:/, ''),
    );
    expect(imports.length).toBeGreaterThan(0);
    expect(imports.filter((module) => !builtinModules.includes(module) && module !== 'koffi')).toEqual([]);
    // RxJS alone takes as long to load as all other modules together.
    expect(text).not.toContain('node_modules/rxjs/');
  },
);
