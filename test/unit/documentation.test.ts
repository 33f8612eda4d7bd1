import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { beforeAll, describe, expect, test } from '@jest/globals';
import { marked } from 'marked';

/** The repository; the tests run compiled, in test/dist/unit. */
const ROOT = join(import.meta.dirname, '..', '..', '..');

/**
 * Commands in the documentation that neither .ci/run nor a test runs, and why. Every other command in a `sh` block has
 * to be a step of .ci/run, or the script of a step with fewer options.
 */
const NOT_RUN: Readonly<Record<string, string>> = {
  'npm install': '.ci/run has `npm ci`, which installs the same and refuses a lock file that does not fit',
  'npm run format': 'it rewrites the sources; its checking half is `npm run lint`, which runs',
  'npm run screenshots': 'it rewrites the pictures in docs/page; npm run test:page reads the same page',
  'npm run bench -- estimate': 'it measures for minutes; its verdict depends on the load of the machine',
  'npm run bench -- qemu': 'it measures for more than half an hour; npm run test:judge does one round of it',
  'npm run bench -- working-set':
    'it needs Linux 7.3; what it rests on is tested by npm run test:kernel -- --machine newest',
  'npm run test:selftests':
    'it downloads 167 MB and takes an hour of an emulated processor; its readers are tested by npm test',
};

/** Pages whose commands a test of their own runs, in an empty folder. */
const RUN_BY_A_TEST: Readonly<Record<string, string>> = {
  'docs/getting-started.md': 'test/packaging/getting-started.test.ts',
};

interface Block {
  readonly page: string;
  /** The line of the block's first line of code, from 1. */
  readonly line: number;
  /** The first word after the fence: `ts`, `sh`, ... */
  readonly language: string;
  /** The rest of the line after the fence. */
  readonly remark: string;
  readonly text: string;
}

const pages = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', ...markdownIn('docs'), ...packageReadmes()].filter(
  (page) => existsSync(join(ROOT, page)),
);
const blocks = pages.flatMap(blocksOf);

test('there are pages to read', () => {
  expect(pages).toEqual(expect.arrayContaining(['README.md', 'CONTRIBUTING.md']));
});

describe('the TypeScript', () => {
  const programs = blocks.filter(({ language }) => language === 'ts' || language === 'typescript');
  const compiled = programs.filter(({ remark }) => !remark.startsWith('no-check'));
  let errors: string[];

  beforeAll(() => {
    const folder = join(ROOT, '.cache', 'documentation');
    rmSync(folder, { recursive: true, force: true });
    // As many empty lines precede the code as lines precede it in the page, so that the compiler names the line of the
    // page.
    for (const block of compiled) {
      write(join(folder, fileOf(block)), '\n'.repeat(block.line - 1) + block.text);
      // A block whose first line is a file name may be imported by other blocks of its folder.
      const [, name] = /^\/\/ (\S+\.m?ts)\n/.exec(block.text) ?? [];
      if (name !== undefined) write(join(folder, dirname(block.page), name), block.text);
    }
    const compilerOptions = { noEmit: true, composite: false, noUnusedLocals: false, types: ['node'], rootDir: '.' };
    const config = { extends: '../../tsconfig.base.json', compilerOptions, files: compiled.map(fileOf) };
    write(join(folder, 'tsconfig.json'), JSON.stringify(config));
    if (compiled.length === 0) {
      errors = [];
      return;
    }
    const compiler = join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc');
    const run = spawnSync(process.execPath, [compiler, '-p', '.', '--pretty', 'false'], {
      cwd: folder,
      encoding: 'utf8',
    });
    errors = run.status === 0 ? [] : run.stdout.trimEnd().split('\n');
  }, 60_000);

  // Pages without code are listed too, so that this table is never empty.
  test.each(pages)('of %s compiles', (page) => {
    const own = errors.filter((line) => line.startsWith(`${page}.`));
    expect(own).toEqual([]);
  });

  test('has no error that belongs to no page', () => {
    expect(errors.filter((line) => !pages.some((page) => line.startsWith(`${page}.`)) && !/^\s/.test(line))).toEqual(
      [],
    );
  });

  test('is left unchecked only with a reason', () => {
    const unchecked = programs.filter(({ remark }) => remark.startsWith('no-check'));
    const silent = unchecked.filter(({ remark }) => remark.replace('no-check', '').trim() === '');
    expect(silent.map(({ page, line }) => `${page}:${line}`)).toEqual([]);
  });
});

describe('the commands', () => {
  const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>;
  };
  const shown = blocks
    .filter(({ language, page }) => ['sh', 'bash', 'shell', 'console'].includes(language) && !RUN_BY_A_TEST[page])
    .flatMap((block) => commandsOf(block.text).map((command) => ({ ...block, command })));
  const run = stepsOfCi();

  test('.ci/run has steps that this test can read', () => {
    expect(run).toContain('npm test');
  });

  test('of pages that have a test of their own are run by it', () => {
    for (const [page, file] of Object.entries(RUN_BY_A_TEST)) {
      expect(readFileSync(join(ROOT, file), 'utf8')).toContain(page.split('/').at(-1));
    }
  });

  test('are shown in blocks that this test knows', () => {
    const known = /^(ts|typescript|sh|bash|shell|console|json|js|text|mermaid|c|asm|python|)$/;
    expect(blocks.filter(({ language }) => !known.test(language))).toEqual([]);
  });

  test('are run by .ci/run, or are listed here with a reason', () => {
    const unknown = shown.filter(({ command }) => NOT_RUN[command] === undefined && !isRun(command, run));
    expect(unknown.map(({ page, line, command }) => `${page}:${line}: ${command}`)).toEqual([]);
  });

  test('name npm scripts that exist', () => {
    const text = pages.map((page) => readFileSync(join(ROOT, page), 'utf8')).join('\n');
    const named = [...text.matchAll(/npm run (?:--silent )?([a-z][\w:-]*)/g)].map((match) => match[1] as string);
    expect(named.filter((name) => scripts[name] === undefined)).toEqual([]);
  });

  test('listed with a reason are still in the documentation', () => {
    const commands = shown.map(({ command }) => command);
    expect(Object.keys(NOT_RUN).filter((command) => !commands.includes(command))).toEqual([]);
  });
});

test.each(pages)('the links of %s to files of this repository lead somewhere', (page) => {
  const text = readFileSync(join(ROOT, page), 'utf8');
  const targets: string[] = [];
  void marked.walkTokens(marked.lexer(text), (token) => {
    if ((token.type === 'link' || token.type === 'image') && !/^([a-z]+:|#)/.test(token['href'])) {
      targets.push(token['href'].replace(/#.*$/, ''));
    }
  });
  expect(targets.filter((target) => !existsSync(join(ROOT, dirname(page), target)))).toEqual([]);
});

test('every picture of docs is in a document', () => {
  const text = pages.map((page) => readFileSync(join(ROOT, page), 'utf8')).join('\n');
  const names = readdirSync(join(ROOT, 'docs'), { recursive: true, encoding: 'utf8' });
  const pictures = names.filter((name) => /\.(webp|svg|png)$/.test(name));
  expect(pictures.length).toBeGreaterThan(8);
  expect(pictures.filter((name) => !text.includes(`docs/${name})`))).toEqual([]);
});

test.each(['README.md', 'CONTRIBUTING.md'])('%s says where each package is', (page) => {
  const text = readFileSync(join(ROOT, page), 'utf8');
  const packages = readdirSync(join(ROOT, 'packages')).map((name) => `packages/${name}`);
  expect(packages.filter((name) => !text.includes(name))).toEqual([]);
});

/** The fenced blocks of a page, with the line at which the code of each starts. */
function blocksOf(page: string): Block[] {
  const source = readFileSync(join(ROOT, page), 'utf8');
  const lines = source.split('\n').map((line) => line.replace(/^[\s>]*/, ''));
  const found: Block[] = [];
  let from = 0;
  void marked.walkTokens(marked.lexer(source), (token) => {
    if (token.type !== 'code' || token['codeBlockStyle'] === 'indented') return;
    const info: string = token['lang'] ?? '';
    const text: string = token['text'];
    const fence = lines.findIndex((line, i) => i >= from && /^(```+|~~~+)/.test(line) && line.endsWith(info));
    if (fence === -1) throw new Error(`${page}: cannot find the line of this block:\n${token.raw}`);
    from = fence + text.split('\n').length + 2;
    const [language = '', ...remark] = info.split(' ');
    found.push({ page, line: fence + 2, language, remark: remark.join(' '), text });
  });
  return found;
}

/** The commands of a `sh` block: without comments and prompts, with `a && b` split and continued lines joined. */
function commandsOf(text: string): string[] {
  return text
    .replace(/\\\n\s*/g, ' ')
    .split('\n')
    .flatMap((line) => line.replace(/(^|\s)#.*$/, '').split('&&'))
    .map((command) =>
      command
        .replace(/^\s*\$ /, '')
        .trim()
        .replace(/\s+/g, ' '),
    )
    .filter((command) => command !== '');
}

/** The commands of the steps of .ci/run: the text after ` -- ` in a line that starts with `step` or `beside`. */
function stepsOfCi(): string[] {
  const script = readFileSync(join(ROOT, '.ci', 'run'), 'utf8').replace(/\\\n\s*/g, ' ');
  return [...script.matchAll(/^\s*(?:step|beside) .*? -- (.+)$/gm)].map((match) =>
    (match[1] as string).trim().replace(/\s+/g, ' '),
  );
}

/** True when a step is this very command, or the same npm script with at least these options. */
function isRun(command: string, steps: readonly string[]): boolean {
  if (steps.includes(command)) return true;
  const [script, options] = scriptAndOptions(command);
  if (script === undefined) return false;
  return steps.some((step) => {
    const [sameScript, run] = scriptAndOptions(step);
    return sameScript === script && options.every((option) => run.includes(option));
  });
}

/** `npm run demo -- --memory 6G --json` is the script `demo` with the options `--memory 6G` and `--json`. */
function scriptAndOptions(command: string): [string | undefined, string[]] {
  const match = /^npm run ([\w:-]+)(?: -- (.*))?$/.exec(command);
  const options = (match?.[2] ?? '').split(/ (?=--)/).filter((option) => option !== '');
  return [match?.[1], options];
}

/** The name of the file that a block is compiled as: the page and the line, with its folders. */
function fileOf({ page, line }: Block): string {
  return `${page}.${line}.ts`;
}

function markdownIn(folder: string): string[] {
  if (!existsSync(join(ROOT, folder))) return [];
  const names = readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' });
  return names.filter((name) => name.endsWith('.md')).map((name) => `${folder}/${name}`);
}

function packageReadmes(): string[] {
  return ['packages', 'examples'].flatMap((folder) =>
    readdirSync(join(ROOT, folder)).map((name) => `${folder}/${name}/README.md`),
  );
}

function write(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
}
