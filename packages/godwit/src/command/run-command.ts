import { createReadStream, existsSync, readFileSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { runDoctor } from '../doctor/run-doctor.js';
import type { Finding } from '../inspect/finding.js';
import { followFile } from '../inspect/follow-file.js';
import { inspectRecording } from '../inspect/inspect-recording.js';
import { inspectSnapshot } from '../inspect/inspect-snapshot.js';
import { plainText, toJson } from '../inspect/plain-text.js';
import { textOf } from '../inspect/text-report.js';
import { runSimulate } from '../simulate/run-simulate.js';
import { ArgumentError } from './argument-error.js';
import { type Command, parseCommand, USAGE } from './arguments.js';
import { completionFor } from './completion.js';
import { LineOutput, OutputClosed } from './output.js';
import { runReport } from './run-report.js';
import { BROKEN_PIPE_STATUS, isSnapshot, READ_BYTES, type Surroundings } from './surroundings.js';

export type { Surroundings } from './surroundings.js';

/** Runs the command `godwit`; resolves with the exit status. */
export async function runCommand(argv: readonly string[], io: Surroundings): Promise<number> {
  let command: Command;
  try {
    command = parseCommand(argv);
  } catch (error) {
    if (!(error instanceof ArgumentError)) throw error;
    io.stderr.write(`godwit: ${error.message}\nSee godwit --help.\n`);
    return 2;
  }
  switch (command.name) {
    case 'help':
      io.stdout.write(USAGE);
      return 0;
    case 'version':
      io.stdout.write(`${version()}\n`);
      return 0;
    case 'completion':
      io.stdout.write(completionFor(command.shell));
      return 0;
    case 'simulate':
      return runSimulate(command.argv, io);
    case 'doctor':
      return runDoctor(command.argv, io);
    case 'inspect':
      return inspect(command, io);
    case 'report':
      return runReport(command, io);
  }
}

async function inspect(command: Extract<Command, { name: 'inspect' }>, io: Surroundings): Promise<number> {
  const { file, json } = command;
  const name = file === '-' ? 'standard input' : file;
  const output = new LineOutput(io.stdout);
  const show: (finding: Finding) => string = json ? toJson : textOf;
  let problem: string | undefined;
  const stop = new AbortController();
  const interrupt = () => stop.abort();
  // An interruption prints the summary, as the end of the file does.
  if (command.follow) process.once('SIGINT', interrupt);
  try {
    for await (const finding of await findingsOf(command, io.stdin, stop.signal)) {
      await output.line(show(finding));
      if (finding.event === 'broken') problem = `at byte ${finding.offset}: ${finding.message}`;
      if (finding.event === 'violation' || finding.event === 'damage')
        problem ??= `at byte ${finding.offset}: ${finding.message}`;
    }
  } catch (error) {
    if (error instanceof OutputClosed) return BROKEN_PIPE_STATUS;
    io.stderr.write(`godwit: ${name} cannot be read: ${(error as Error).message}\n`);
    return 2;
  } finally {
    process.removeListener('SIGINT', interrupt);
  }
  if (problem === undefined) return 0;
  io.stderr.write(`godwit: ${name} is not whole: ${plainText(problem)}\n`);
  return 1;
}

async function findingsOf(
  { file, frames, follow }: Extract<Command, { name: 'inspect' }>,
  stdin: Readable,
  signal: AbortSignal,
): Promise<AsyncIterable<Finding>> {
  if (file === '-') return inspectRecording(stdin, { frames });
  // A snapshot file gets its name only when it is complete, so that there is nothing to follow.
  if (follow && !(existsSync(file) && (await isSnapshot(file)))) {
    return inspectRecording(followFile(file, signal), { frames, untilEnd: true });
  }
  return (await isSnapshot(file))
    ? inspectSnapshot(file)
    : inspectRecording(createReadStream(file, { highWaterMark: READ_BYTES }), { frames });
}

function version(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));
  return (manifest as { version: string }).version;
}
