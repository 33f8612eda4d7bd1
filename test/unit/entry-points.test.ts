import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, test } from '@jest/globals';

/** The repository; the tests run compiled, in test/dist/unit. */
const ROOT = join(import.meta.dirname, '..', '..', '..');

/** Each entry point and the names that it exports, which change only together with this file. */
const FROZEN = frozenNames(readFileSync(join(ROOT, 'test', 'unit', 'entry-points.txt'), 'utf8'));

/** A built entry point: its name, and its compiled module without the ending. */
interface EntryPoint {
  readonly name: string;
  readonly module: string;
}

const entryPoints = readdirSync(join(ROOT, 'packages')).flatMap(entryPointsOf);

test('the entry points are those of test/unit/entry-points.txt', () => {
  expect(entryPoints.map(({ name }) => name).sort()).toEqual([...FROZEN.keys()]);
});

describe.each(entryPoints)('$name', ({ name, module }) => {
  const declared = exportedNames(`${module}.d.ts`);

  test('exports the names of test/unit/entry-points.txt, and no others', () => {
    expect([...declared.keys()].sort()).toEqual(FROZEN.get(name));
  });

  test('has the values that it declares', async () => {
    expect(Object.keys(await import(pathToFileURL(`${module}.js`).href)).sort()).toEqual(valuesOf(declared).sort());
  });
});

test('raw names stay out of what embedders import, except those that @godwit/linux has kept', () => {
  const raw = /^(IOMMU|VFIO|KVM|UFFDIO|PM|PAGE)_[A-Z_]+$|Layouts$|Request$|Flags$|^(struct|defines|ioctl\w*|mmap)$/;
  const kept = exportedNames(join(ROOT, 'packages', 'linux', 'dist', 'raw-names.d.ts'));
  const found = ['@godwit/core', '@godwit/linux', '@godwit/linux/kvm', '@godwit/linux/memory', '@godwit/vfio']
    .flatMap((name) => FROZEN.get(name) ?? [])
    .filter((name) => raw.test(name) && !kept.has(name));
  // These are requests to the engine and to a container, and names of frames, and not numbers of a kernel's interface.
  expect(found).toEqual(['LinkRequest', 'PAGE_CHANNEL_FRAMES', 'MapRequest']);
});

test('what @godwit/linux has kept is in @godwit/linux/unstable too', () => {
  const kept = exportedNames(join(ROOT, 'packages', 'linux', 'dist', 'raw-names.d.ts'));
  expect(FROZEN.get('@godwit/linux/unstable')).toEqual(expect.arrayContaining([...kept.keys()]));
});

describe('the API reference', () => {
  /** Entry points that are not pages of it. Their names are on pages of others, or may change in any version. */
  const leftOut: Readonly<Record<string, string>> = {
    '@godwit/core/pages': 'may change in any version',
    '@godwit/linux/testing': 'compares structures with the kernel headers, for tests of this repository',
    '@godwit/linux/unstable': 'may change in any version',
    '@godwit/linux/unstable/libc': 'may change in any version',
    '@godwit/linux/unstable/rearm': 'may change in any version',
    '@godwit/observe/model': 'may change in any version',
    '@godwit/transport/framing': 'what a thread needs of the frames; frameStream is in @godwit/transport',
    '@godwit/transport/snapshot-pages': 'what a thread needs of snapshots, for @godwit/workers',
    '@godwit/vfio/unstable': 'may change in any version',
    '@godwit/workers/unstable': 'may change in any version',
  };
  const { entryPoints: files } = JSON.parse(
    readFileSync(join(ROOT, 'tools', 'api-reference', 'typedoc.json'), 'utf8'),
  ) as { entryPoints: readonly string[] };
  const pages = files.map((file) => join(ROOT, 'tools', 'api-reference', file).replace('/src/', '/dist/'));
  const named = new Set(
    entryPoints
      .filter(({ module }) => pages.includes(`${module}.ts`))
      .flatMap(({ name }) => [...(FROZEN.get(name) ?? []), `* ${name}`]),
  );

  test.each(entryPoints.filter(({ name }) => leftOut[name] === undefined))('has every name of $name', ({ name }) => {
    // The options of the constructor of `GodwitError` are in the signature that the reference shows.
    const missing = (FROZEN.get(name) ?? []).filter((one) => !named.has(one) && one !== 'GodwitErrorOptions');
    expect(missing).toEqual([]);
  });

  test.each(entryPoints.filter(({ name }) => leftOut[name] === undefined))(
    'has an example of each function and class of $name',
    ({ name }) => {
      const examples = examplesIn(name.startsWith('@') ? (name.split('/')[1] as string) : name.replace(/\/.*/, ''));
      expect((FROZEN.get(name) ?? []).filter((one) => examples.get(one) === false)).toEqual([]);
    },
  );

  test('leaves out entry points that there are, and no others', () => {
    const names = entryPoints.map(({ name }) => name);
    expect(Object.keys(leftOut).filter((name) => !names.includes(name))).toEqual([]);
    expect(pages.length).toBe(entryPoints.filter(({ module }) => pages.includes(`${module}.ts`)).length);
  });
});

/** The functions and classes of a package, and whether the doc comment of each has an example. */
function examplesIn(folder: string): Map<string, boolean> {
  const dist = join(ROOT, 'packages', folder, 'dist');
  const found = new Map<string, boolean>();
  for (const path of readdirSync(dist, { recursive: true, encoding: 'utf8' }).filter((one) => one.endsWith('.d.ts'))) {
    const declared = /(\/\*\*(?:(?!\*\/).)*\*\/\n)?^export declare (?:abstract )?(?:class|function) (\w+)/gms;
    for (const [, doc = '', name = ''] of readFileSync(join(dist, path), 'utf8').matchAll(declared)) {
      found.set(name, found.get(name) === true || /@example|```/.test(doc));
    }
  }
  return found;
}

function entryPointsOf(folder: string): EntryPoint[] {
  const { name, exports } = JSON.parse(readFileSync(join(ROOT, 'packages', folder, 'package.json'), 'utf8')) as {
    name: string;
    exports: Record<string, { default: string }>;
  };
  return Object.entries(exports).map(([path, { default: file }]) => ({
    name: name + path.slice(1),
    module: join(ROOT, 'packages', folder, file).replace(/\.js$/, ''),
  }));
}

/** The kind of a name: a type, a value, or everything that another entry point exports: `* @godwit/core`. */
type Kind = 'type' | 'value' | 'everything';

/** The names that a declaration file exports, including those from other files of its package. */
function exportedNames(file: string): Map<string, Kind> {
  const names = new Map<string, Kind>();
  const text = readFileSync(file, 'utf8');
  for (const [, allTypes, list = ''] of text.matchAll(/^export (type )?\{([^}]*)\}/gm)) {
    for (const listed of list.split(',').map((one) => one.trim())) {
      const name = listed.replace(/^type /, '').replace(/^.* as /, '');
      if (name !== '') names.set(name, allTypes !== undefined || listed.startsWith('type ') ? 'type' : 'value');
    }
  }
  for (const [, kind = '', name = ''] of text.matchAll(/^export (?:declare )?(?:abstract )?(\w+) (\w+)/gm)) {
    if (/^(class|const|enum|function|let)$/.test(kind)) names.set(name, 'value');
    if (/^(interface|type)$/.test(kind)) names.set(name, 'type');
  }
  for (const [, name = ''] of text.matchAll(/^export \* as (\w+) from/gm)) names.set(name, 'value');
  for (const [, from = ''] of text.matchAll(/^export \* from '([^']+)'/gm)) {
    if (!from.startsWith('.')) names.set(`* ${from}`, 'everything');
    else
      for (const [name, kind] of exportedNames(join(dirname(file), from.replace(/\.js$/, '.d.ts'))))
        names.set(name, kind);
  }
  return names;
}

function valuesOf(names: ReadonlyMap<string, Kind>): string[] {
  return [...names].flatMap(([name, kind]) => {
    if (kind !== 'everything') return kind === 'value' ? [name] : [];
    const other = entryPoints.find((entryPoint) => name === `* ${entryPoint.name}`);
    if (other === undefined) throw new Error(`${name} is exported, which is no entry point of a package here`);
    return valuesOf(exportedNames(`${other.module}.d.ts`));
  });
}

/** `# entry point`, then a line for each name. */
function frozenNames(text: string): Map<string, string[]> {
  const sections = text.split(/^# /m).slice(1);
  return new Map(
    sections.map((section) => {
      const [entry = '', ...names] = section.split('\n').filter((line) => line !== '');
      return [entry, names];
    }),
  );
}
