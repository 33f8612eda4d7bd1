import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { godwit } from './godwit-command.js';

jest.setTimeout(120_000);

let folder: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-completion-'));
  for (const shell of ['bash', 'zsh', 'fish']) {
    const { status, stdout, stderr } = await godwit(['completion', shell]);
    expect([status, stderr]).toEqual([0, '']);
    writeFileSync(join(folder, shell), stdout);
  }
  writeFileSync(join(folder, 'some recording.godwit'), '');
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Lines of input at whose end Tab is pressed, and what then stands there, or may. */
const CASES = [
  ['godwit ins', ['inspect']],
  ['godwit --ver', ['--version']],
  ['godwit inspect --fo', ['--follow']],
  ['godwit simulate --dirt', ['--dirty-rate']],
  ['godwit doctor --n', ['--need']],
  ['godwit completion f', ['fish']],
] as const;

function run(shell: string, args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(shell, args, { cwd: folder, encoding: 'utf8', timeout: 60_000 });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return stdout;
}

const SHELLS: Readonly<Record<string, (line: string) => readonly string[]>> = {
  bash(line) {
    const script = `source ./bash; COMP_WORDS=(${line.replace(/ $/, " ''")}); COMP_CWORD=$((\${#COMP_WORDS[@]} - 1)); _godwit
      printf '%s\\n' "\${COMPREPLY[@]}"`;
    return run('bash', ['--norc', '-c', script]).trimEnd().split('\n');
  },
  zsh(line) {
    // Completion works in an interactive shell only: one on a pseudo-terminal, which shows its line when Ctrl-X is pressed.
    const script = `zmodload zsh/zpty
      zpty z zsh -f -i
      zpty -w z 'PS1=; autoload -Uz compinit; compinit -u -D; source ./zsh; show() { print -r -- "<$BUFFER>" }; zle -N show; bindkey "^X" show; print REA""DY'
      zpty -r z out '*READY*'
      zpty -w -n z "$1"$'\\t\\x18'
      zpty -r z out '*<*>*'
      zpty -d z
      print -r -- "$out"`;
    const shown = /<godwit ([^>]*)>/.exec(run('zsh', ['-f', '-c', script, 'zsh', line]))?.[1] ?? '';
    return [shown.trimEnd().split(' ').at(-1)?.replace(/=$/, '') as string];
  },
  fish(line) {
    const words = run('fish', ['--no-config', '-c', `source ./fish; complete -C "${line}"`])
      .trimEnd()
      .split('\n');
    return words.map((word) => word.split('\t')[0] as string);
  },
};

describe.each(Object.keys(SHELLS))('godwit completion %s', (shell) => {
  const there = spawnSync(shell, ['--version']).status === 0;
  const complete = SHELLS[shell] as (line: string) => readonly string[];
  if (!there) {
    test.skip(`completes commands, options and words (skipped: there is no ${shell})`, () => {});
    return;
  }

  test.each(CASES)('completes %s', (line, words) => {
    expect(complete(line)).toEqual(words);
  });

  if (shell === 'zsh') return;

  test('completes names of files', () => {
    expect(complete('godwit inspect some')).toEqual([expect.stringMatching(/^some\\? recording\.godwit$/)]);
  });

  test('offers all commands', () => {
    expect(complete('godwit ')).toEqual(expect.arrayContaining(['inspect', 'simulate', 'doctor', 'completion']));
  });
});
