import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { packAll, ROOT, type Tarball } from './packed.js';

/** A block of the page: a file, commands, or what they print. */
interface Block {
  readonly language: string;
  /** The word after the language: which of two terminals the block is for. */
  readonly terminal: string;
  readonly text: string;
  readonly heading: string;
}

const blocks = blocksOf(readFileSync(join(ROOT, 'docs', 'getting-started.md'), 'utf8'));

let temporary: string;
let project: string;
let tarballs: Map<string, Tarball>;

beforeAll(() => {
  temporary = mkdtempSync(join(tmpdir(), 'godwit-started-'));
  project = join(temporary, 'my-vmm');
  mkdirSync(project);
  tarballs = packAll(temporary);
}, 120_000);

afterAll(() => rmSync(temporary, { recursive: true, force: true }));

const headings = [...new Set(blocks.map(({ heading }) => heading))];

test('docs/getting-started.md has its steps', () => {
  expect(headings.length).toBeGreaterThanOrEqual(8);
  expect(blocks.filter(({ language }) => language === 'sh').length).toBeGreaterThanOrEqual(6);
});

// The steps run one after the other in the same folder, each exactly as the page has it.
describe.each(headings)('%s', (heading) => {
  test('works as it stands', async () => {
    let printed = '';
    const terminals = new Map<string, string>();
    let first: { readonly child: ChildProcess; output: string } | undefined;
    for (const { language, terminal, text, heading: own } of blocks) {
      if (own !== heading) continue;
      const file = /^\/\/ (\S+)\n/.exec(text)?.[1];
      if (file !== undefined) {
        writeFileSync(join(project, file), text);
      } else if (language === 'sh' && terminal === 'terminal-1') {
        first = await begin(text);
      } else if (language === 'sh') {
        printed = text.trim().split('\n').map(shell).join('');
        if (terminal !== '') terminals.set(terminal, printed);
      } else if (language === 'text') {
        if (terminal === 'terminal-1' && first !== undefined) terminals.set(terminal, await ended(first));
        expect(shapes(terminals.get(terminal) ?? printed)).toEqual(expect.arrayContaining(shapes(text)));
      }
    }
  }, 300_000);
});

/**
 * Runs a command as a shell does; only the names of this project's packages are replaced, by the tarballs that would be
 * published.
 */
function shell(command: string): string {
  const packed = [...tarballs.values()].map(({ file }) => file).join(' ');
  const line = command.replace(/^npm install godwit$/, `npm install --no-audit --no-fund ${packed}`);
  const { status, stdout, stderr } = spawnSync('bash', ['-c', line], { cwd: project, encoding: 'utf8' });
  expect({ command, status, stdout, stderr }).toMatchObject({ status: 0 });
  return stdout;
}

/** Starts a command that keeps running, and waits for its first output. */
async function begin(command: string) {
  const [program, ...args] = command.trim().split(' ') as [string, ...string[]];
  const child = spawn(program, args, { cwd: project, stdio: ['ignore', 'pipe', 'inherit'] });
  const begun = { child, output: '' };
  child.stdout.setEncoding('utf8').on('data', (text) => {
    begun.output += text;
  });
  await Promise.race([once(child.stdout, 'data'), once(child, 'exit')]);
  return begun;
}

async function ended(begun: { readonly child: ChildProcess; output: string }): Promise<string> {
  if (begun.child.exitCode === null) await once(begun.child, 'close');
  expect(begun.child.exitCode).toBe(0);
  return begun.output;
}

/** The lines of a text, in a form in which all numbers are equal, and so are all runs of spaces. */
function shapes(text: string): string[] {
  return text
    .trim()
    .split('\n')
    .map((line) =>
      line
        .trim()
        .replaceAll(/\d+(\.\d+)?/g, '0')
        .replaceAll(/ +/g, ' '),
    );
}

function blocksOf(page: string): Block[] {
  return page
    .split(/^## /m)
    .slice(1)
    .flatMap((section) => {
      const heading = section.slice(0, section.indexOf('\n'));
      return [...section.matchAll(/^```(\w+) ?([\w-]*)\n([\s\S]*?)^```$/gm)].map(
        ([, language, terminal, text]): Block => ({
          heading,
          language: language as string,
          terminal: terminal as string,
          text: text as string,
        }),
      );
    });
}
