import { parseArgs } from 'node:util';

export type Command =
  | { readonly name: 'inspect'; readonly file: string; readonly json: boolean; readonly frames: boolean }
  /** Without `output` the report goes to the standard output. */
  | { readonly name: 'report'; readonly file: string; readonly output: string | undefined }
  /** `argv` are the arguments behind `simulate`. */
  | { readonly name: 'simulate'; readonly argv: readonly string[] }
  | { readonly name: 'help' }
  | { readonly name: 'version' }
  /** What is wrong with the arguments. */
  | { readonly name: 'mistake'; readonly message: string };

export const USAGE = `Usage: godwit inspect [--json] [--frames] FILE
       godwit report [--output FILE] RECORDING
       godwit simulate --memory SIZE --link RATE [--dirty-rate RATE] [options]; see godwit simulate --help
       godwit --help | --version

inspect reads a recorded migration, the captured bytes of one of its streams, or a snapshot, and prints what is in it: hello,
rounds, pages by kind, devices, attempts to switch over, how it ended, and errors with the byte at which they start. Every
page of a snapshot is compared with its checksum. FILE may be of any size; - is standard input (but a snapshot has to be
a file).

report writes a recorded migration as one page of HTML, which needs nothing else.

  --json    one JSON object a line; the last one has "event":"summary"
  --frames  every frame, not only those that matter by themselves
  --output  where the report goes; without it, to the standard output

Exit status: 0 the file is whole and obeys the protocol, 1 it is torn, damaged or breaks the protocol (what comes before is
printed), 2 it cannot be read at all, or the arguments are wrong. A migration that failed, recorded as it was, is whole.
`;

const OPTIONS = {
  json: { type: 'boolean', default: false },
  frames: { type: 'boolean', default: false },
  output: { type: 'string', short: 'o' },
  help: { type: 'boolean', short: 'h', default: false },
  version: { type: 'boolean', short: 'V', default: false },
} as const;

/** Reads the command line, without `node` and the script. */
export function parseCommand(argv: readonly string[]): Command {
  // Its options are its own.
  if (argv[0] === 'simulate') return { name: 'simulate', argv: argv.slice(1) };
  let parsed: ReturnType<typeof parse>;
  try {
    parsed = parse(argv);
  } catch (error) {
    return { name: 'mistake', message: (error as Error).message };
  }
  const { values, positionals } = parsed;
  if (values.help) return { name: 'help' };
  if (values.version) return { name: 'version' };
  const [name, file, ...more] = positionals;
  if (name === undefined) return { name: 'mistake', message: 'a command is missing' };
  if (name !== 'inspect' && name !== 'report') return { name: 'mistake', message: `there is no command "${name}"` };
  if (file === undefined) return { name: 'mistake', message: `${name} needs a FILE, or - for standard input` };
  if (more.length > 0) return { name: 'mistake', message: `${name} reads one FILE, got also "${more.join(' ')}"` };
  if (name === 'report') {
    if (values.json || values.frames) return { name: 'mistake', message: '--json and --frames are for inspect' };
    return { name, file, output: values.output };
  }
  if (values.output !== undefined) return { name: 'mistake', message: '--output is for report' };
  return { name, file, json: values.json, frames: values.frames };
}

function parse(argv: readonly string[]) {
  return parseArgs({ args: [...argv], options: OPTIONS, allowPositionals: true });
}
