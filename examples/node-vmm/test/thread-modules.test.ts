import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from '@jest/globals';

const BUILT = join(import.meta.dirname, '..', 'dist');

/** What TypeScript emits: a line each. */
const IMPORT = /^(?:import|export) (?:.* from )?'([^']+)';$/gm;

/** What a built module imports by name, itself and through the files of this package. */
function imported(file: string, seen = new Set<string>()): Set<string> {
  const names = new Set<string>();
  if (seen.has(file)) return names;
  seen.add(file);
  for (const [, specifier = ''] of readFileSync(file, 'utf8').matchAll(IMPORT)) {
    const more = specifier.startsWith('.') ? imported(join(dirname(file), specifier), seen) : [specifier];
    for (const name of more) names.add(name);
  }
  return names;
}

/** Each of these costs a thread less than 20 ms; the engine, with RxJS, costs 80. */
const QUICK = [
  '@godwit/core/errors',
  '@godwit/core/pages',
  '@godwit/linux/kvm',
  '@godwit/linux/memory',
  '@godwit/linux/unstable/libc',
];

test.each(['vcpu/vcpu-thread.js', 'software/software-thread.js'])(
  '%s loads no engine: a destination is not prepared before it stands',
  (thread) => {
    const names = [...imported(join(BUILT, thread))].filter((name) => !name.startsWith('node:'));
    expect(names).toContain('@godwit/linux/memory');
    expect(names.filter((name) => !QUICK.includes(name))).toEqual([]);
  },
);
