import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Analysis, checkPackage, createPackageFromTarballData } from '@arethetypeswrong/core';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { publint } from 'publint';
import { manifestIn, npm, PACKAGES, packAll, ROOT, run, type Tarball } from './packed.js';

const root = manifestIn(ROOT);

let temporary: string;
let tarballs: Map<string, Tarball>;

beforeAll(() => {
  temporary = mkdtempSync(join(tmpdir(), 'godwit-pack-'));
  tarballs = packAll(temporary);
}, 60_000);

afterAll(() => rmSync(temporary, { recursive: true, force: true }));

test('CHANGELOG.md says what this version offers, and which formats', () => {
  const page = readFileSync(join(ROOT, 'CHANGELOG.md'), 'utf8');
  const [heading] = /^## .*$/m.exec(page) ?? [];
  expect(heading === '## Unreleased' || heading?.includes(root.version)).toBe(true);
  for (const { manifest } of PACKAGES) expect(page).toContain(`\`${manifest.name}\``);
  const formats = [
    ['wire-format.md', /^# The wire format, version (\d+)/, 'Wire format'],
    ['snapshot-format.md', /^# The snapshot format, version (\d+)/, 'snapshot format'],
  ] as const;
  for (const [file, version, name] of formats) {
    const [, number] = version.exec(readFileSync(join(ROOT, 'docs', file), 'utf8')) ?? [];
    expect(page).toContain(`${name} ${number}`);
  }
});

test('there is something to publish', () => {
  expect(PACKAGES.map(({ manifest }) => manifest.name)).toEqual(
    expect.arrayContaining([
      '@godwit/core',
      '@godwit/transport',
      '@godwit/linux',
      '@godwit/vfio',
      '@godwit/workers',
      '@godwit/observe',
      'godwit',
    ]),
  );
});

describe.each(PACKAGES)('$manifest.name', ({ folder, manifest }) => {
  const entryPoints = Object.keys(manifest.exports).map((path) => manifest.name + path.slice(1));
  let project: string;

  beforeAll(() => {
    project = join(temporary, manifest.name.replace('/', '-'));
    mkdirSync(project);
    // The package's own dependencies on its siblings have to come from the tarballs too, not from a registry.
    const siblings = [...tarballs].filter(([name]) => name !== manifest.name);
    const consumer = {
      private: true,
      type: 'module',
      dependencies: { [manifest.name]: `file:${tarballOf(manifest.name).file}` },
      // A consumer that uses optional peers installs them itself.
      devDependencies: { '@types/node': root.devDependencies?.['@types/node'], ...manifest.peerDependencies },
      overrides: Object.fromEntries(siblings.map(([name, { file }]) => [name, `file:${file}`])),
    };
    writeFileSync(join(project, 'package.json'), JSON.stringify(consumer));
    npm(project, 'install', '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund');
  }, 120_000);

  test('the tarball holds what it should, and nothing else', () => {
    const { files } = tarballOf(manifest.name);
    expect(files).toEqual(
      expect.arrayContaining(['LICENSE', 'README.md', 'package.json', 'dist/index.js', 'dist/index.d.ts']),
    );
    const strays = files.filter(
      (path) =>
        !/^(LICENSE|README\.md|package\.json|(dist|src|grafana|threads)\/.+)$/.test(path) ||
        /\.tsbuildinfo$|\.test\.|(^|\/)(dist-)?test\/|\.node$/.test(path),
    );
    expect(strays).toEqual([]);
  });

  test('each built file has its types and its source', () => {
    const { files } = tarballOf(manifest.name);
    for (const path of files.filter((file) => file.startsWith('dist/') && file.endsWith('.js'))) {
      expect(files).toContain(path.replace(/\.js$/, '.d.ts'));
      expect(files).toContain(path.replace('dist/', 'src/').replace(/\.js$/, '.ts'));
    }
  });

  test('says where it comes from', () => {
    const { homepage, repository, bugs, keywords, funding } = manifest;
    expect(repository?.url).toMatch(/^git\+https:\/\/.*\.git$/);
    expect(join(ROOT, repository?.directory ?? '')).toBe(folder);
    const { homepage: home = '', bugs: rootBugs } = root;
    expect(homepage).toBe(home.replace('#readme', `/tree/main/${repository?.directory}#readme`));
    expect(bugs).toEqual(rootBugs);
    expect(keywords).toEqual(expect.arrayContaining(['live-migration']));
    expect(funding).toBeUndefined();
  });

  test('npm would publish it', () => {
    // A dry run needs no login.
    const args = ['publish', '--dry-run', '--json', '--ignore-scripts', '--access', 'public', '--tag', 'dry-run'];
    const answer = JSON.parse(npm(folder, ...args)) as Record<string, { readonly id: string }> & {
      readonly id?: string;
    };
    // npm 11 puts the answer under the package's name.
    expect(answer.id ?? answer[manifest.name]?.id).toBe(`${manifest.name}@${manifest.version}`);
  }, 120_000);

  test('its types are right however it is resolved', async () => {
    const tarball = createPackageFromTarballData(readFileSync(tarballOf(manifest.name).file));
    const { problems } = (await checkPackage(tarball)) as Analysis;
    // From Node 20.19 on, `require` can load an ES module; resolvers without support for `exports` cannot find the entry points.
    const meant = problems.filter(
      (problem) =>
        problem.kind !== 'CJSResolvesToESM' && !('resolutionKind' in problem && problem.resolutionKind === 'node10'),
    );
    expect(meant).toEqual([]);
  }, 120_000);

  test('publint has nothing to say', async () => {
    const { buffer: tarball } = Uint8Array.from(readFileSync(tarballOf(manifest.name).file));
    const { messages } = await publint({ strict: true, pack: { tarball } });
    expect(messages).toEqual([]);
  }, 30_000);

  test('the packages come from the tarballs', () => {
    const lock = JSON.parse(readFileSync(join(project, 'package-lock.json'), 'utf8'));
    for (const { manifest: sibling } of PACKAGES) {
      const own = { ...manifest.dependencies, ...manifest.optionalDependencies };
      const needed = sibling.name === manifest.name || own[sibling.name] !== undefined;
      const installed = lock.packages[`node_modules/${sibling.name}`];
      if (needed) expect(installed.resolved).toMatch(/^file:/);
      else expect(installed).toBeUndefined();
    }
  });

  test.each(entryPoints)('%s imports', (name) => {
    expect(exportsOf(name, project)).toBeGreaterThan(0);
  });

  const commands = Object.keys(manifest.bin ?? {});
  const runCommands = (): void => {
    for (const command of commands) {
      expect(run(join(project, 'node_modules', '.bin', command), ['--version'], project)).toBe(`${manifest.version}\n`);
    }
  };
  if (commands.length > 0) test('its commands run', runCommands);

  const optional = Object.keys(manifest.optionalDependencies ?? {});
  if (optional.length > 0) {
    test('what other platforms cannot install is not missed there', () => {
      npm(project, 'install', '--omit=optional', '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund');
      for (const name of optional) expect(existsSync(join(project, 'node_modules', name))).toBe(false);
      expect(exportsOf(manifest.name, project)).toBeGreaterThan(0);
      runCommands();
      npm(project, 'install', '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund');
    }, 120_000);
  }

  test('the types compile in a strict project, those of its dependencies included', () => {
    const imports = entryPoints.map((name, i) => `import * as entry${i} from '${name}';\nexport { entry${i} };`);
    writeFileSync(join(project, 'consumer.ts'), `${imports.join('\n')}\n`);
    const compilerOptions = {
      target: 'ES2022',
      lib: ['ES2023'],
      module: 'NodeNext',
      moduleResolution: 'NodeNext',
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      skipLibCheck: false,
      noEmit: true,
      types: ['node'],
    };
    writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['consumer.ts'] }));
    expect(run(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', project], project)).toBe('');
  }, 60_000);
});

function tarballOf(name: string): Tarball {
  const tarball = tarballs.get(name);
  if (tarball === undefined || !existsSync(tarball.file)) throw new Error(`${name} was not packed`);
  return tarball;
}

/** How many names an entry point exports, imported from a project. */
function exportsOf(name: string, project: string): number {
  const script = `const m = await import('${name}'); process.stdout.write(String(Object.keys(m).length));`;
  return Number(run(process.execPath, ['--input-type=module', '--eval', script], project));
}
