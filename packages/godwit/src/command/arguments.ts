import { suggestion } from '@godwit/core';
import { ArgumentError } from './argument-error.js';
import { COMMANDS, type CommandName, GLOBAL_OPTIONS, INSPECT_OPTIONS, SHELLS } from './commands.js';
import { nearest } from './nearest.js';
import { parseOptions } from './parse-options.js';

export type Command =
  | {
      readonly name: 'inspect';
      readonly file: string;
      readonly json: boolean;
      readonly frames: boolean;
      readonly follow: boolean;
    }
  /** Without `output` the report goes to the standard output. */
  | { readonly name: 'report'; readonly file: string; readonly output: string | undefined }
  /** `argv` are the arguments after the command's name; the command reads them itself. */
  | { readonly name: 'simulate' | 'doctor'; readonly argv: readonly string[] }
  | { readonly name: 'completion'; readonly shell: (typeof SHELLS)[number] }
  | { readonly name: 'help' }
  | { readonly name: 'version' };

export const USAGE = `Usage: godwit inspect [--follow] [--json] [--frames] FILE
       godwit report [--output FILE] RECORDING
       godwit simulate --memory SIZE --link RATE [--dirty-rate RATE] [options]; see godwit simulate --help
       godwit doctor [--need LIST] [--json]; see godwit doctor --help
       godwit completion ${SHELLS.join('|')}
       godwit --help | --version

inspect reads a recorded migration, the captured bytes of one of its streams, or a snapshot, and prints what is in it: hello,
rounds, pages by kind, devices, attempts to switch over, how it ended, and errors with the byte at which they start. Every
page of a snapshot is compared with its checksum. FILE may be of any size; - is standard input (but a snapshot has to be
a file).

  --json        one JSON object a line; the last one has "event":"summary"
  --frames      every frame, not only those that matter by themselves
  -f, --follow  a recording that is still being written, until it says that it ends, or Ctrl-C; waits for FILE to be made

report writes a recorded migration as one page of HTML, which needs nothing else.

  -o, --output  where the report goes; without it, to the standard output

Exit status: 0 the file is whole and obeys the protocol, 1 it is torn, damaged or breaks the protocol (what comes before is
printed), 2 it cannot be read at all, or the arguments are wrong. A migration that failed, recorded as it was, is whole.

completion prints what a shell has to read to complete commands, options and files:

  bash  source <(godwit completion bash)       in ~/.bashrc
  zsh   source <(godwit completion zsh)        in ~/.zshrc, after compinit
  fish  godwit completion fish | source        in ~/.config/fish/config.fish
`;

/** Reads the command line, without `node` and the script. Throws `ArgumentError`, which says what is wrong. */
export function parseCommand(argv: readonly string[]): Command {
  const [name = '', ...rest] = argv;
  if (name.startsWith('-') || name === '') return withoutCommand(argv);
  if (!isCommand(name)) {
    const meant = nearest(name, Object.keys(COMMANDS));
    throw new ArgumentError(
      `there is no command "${name}"${meant === undefined ? '' : `; did you mean godwit ${meant}?`}`,
    );
  }
  switch (name) {
    case 'simulate':
    case 'doctor':
      return { name, argv: rest };
    case 'completion':
      return completion(rest);
    case 'inspect':
      return inspect(rest);
    case 'report':
      return report(rest);
  }
}

function withoutCommand(argv: readonly string[]): Command {
  const { values, positionals } = parseOptions('', argv, { ...INSPECT_OPTIONS, ...GLOBAL_OPTIONS });
  if (values.help) return { name: 'help' };
  if (values.version) return { name: 'version' };
  // Options may also come before the command's name.
  if (positionals[0] === 'inspect')
    return inspect(argv.filter((one, at) => at !== argv.indexOf('inspect') || one === ''));
  throw new ArgumentError(`a command is missing: ${Object.keys(COMMANDS).join(', ')}`);
}

function inspect(argv: readonly string[]): Command {
  const { values, positionals } = parseOptions('inspect', argv, INSPECT_OPTIONS);
  if (values.help) return { name: 'help' };
  const [file, ...more] = positionals;
  if (file === undefined) throw new ArgumentError('inspect needs a FILE, or - for standard input');
  if (more.length > 0) throw new ArgumentError(`inspect reads one FILE, got also "${more.join(' ')}"`);
  const { json, frames, follow } = values;
  if (follow && file === '-') throw new ArgumentError('standard input is read until it ends: leave --follow out');
  return { name: 'inspect', file, json, frames, follow };
}

function report(argv: readonly string[]): Command {
  const { values, positionals } = parseOptions('report', argv, COMMANDS.report.options);
  if (values.help) return { name: 'help' };
  const [file, ...more] = positionals;
  if (file === undefined) throw new ArgumentError('report needs a RECORDING, or - for standard input');
  if (more.length > 0) throw new ArgumentError(`report reads one RECORDING, got also "${more.join(' ')}"`);
  return { name: 'report', file, output: values.output };
}

function completion(argv: readonly string[]): Command {
  const { values, positionals } = parseOptions('completion', argv, COMMANDS.completion.options);
  if (values.help) return { name: 'help' };
  const shell = SHELLS.find((one) => one === positionals[0]);
  if (shell !== undefined && positionals.length === 1) return { name: 'completion', shell };
  throw new ArgumentError(`completion needs a shell: ${SHELLS.join(', ')}${suggestion(positionals[0] ?? '', SHELLS)}`);
}

function isCommand(name: string): name is CommandName {
  return Object.hasOwn(COMMANDS, name);
}
