import { createReadStream, readFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import type { Readable, Writable } from 'node:stream';
import { looksLikeSnapshot } from '@godwit/transport';
import type { Finding } from '../inspect/finding.js';
import { inspectRecording } from '../inspect/inspect-recording.js';
import { inspectSnapshot } from '../inspect/inspect-snapshot.js';
import { plainText, toJson } from '../inspect/plain-text.js';
import { textOf } from '../inspect/text-report.js';
import { runSimulate } from '../simulate/run-simulate.js';
import { type Command, parseCommand, USAGE } from './arguments.js';
import { LineOutput, OutputClosed } from './output.js';

export interface Surroundings {
  readonly stdin: Readable;
  readonly stdout: Writable;
  readonly stderr: Writable;
}

/** What a shell says of a process that SIGPIPE ended. */
const BROKEN_PIPE_STATUS = 128 + 13;

/** Bytes that are read at once. */
const READ_BYTES = 256 * 1024;

/** Enough to tell a snapshot. */
const SNIFFED_BYTES = 64;

/** Runs the command `godwit`; resolves with the exit status. */
export async function runCommand(argv: readonly string[], io: Surroundings): Promise<number> {
  const command = parseCommand(argv);
  switch (command.name) {
    case 'help':
      io.stdout.write(USAGE);
      return 0;
    case 'version':
      io.stdout.write(`${version()}\n`);
      return 0;
    case 'mistake':
      io.stderr.write(`godwit: ${command.message}\n\n${USAGE}`);
      return 2;
    case 'simulate':
      return runSimulate(command.argv, io);
    case 'inspect':
      return inspect(command, io);
  }
}

async function inspect(command: Extract<Command, { name: 'inspect' }>, io: Surroundings): Promise<number> {
  const { file, json, frames } = command;
  const name = file === '-' ? 'standard input' : file;
  const output = new LineOutput(io.stdout);
  const show: (finding: Finding) => string = json ? toJson : textOf;
  let problem: string | undefined;
  try {
    for await (const finding of await findingsOf(file, io.stdin, frames)) {
      await output.line(show(finding));
      if (finding.event === 'broken') problem = `at byte ${finding.offset}: ${finding.message}`;
      if (finding.event === 'violation' || finding.event === 'damage')
        problem ??= `at byte ${finding.offset}: ${finding.message}`;
    }
  } catch (error) {
    if (error instanceof OutputClosed) return BROKEN_PIPE_STATUS;
    io.stderr.write(`godwit: ${name} cannot be read: ${(error as Error).message}\n`);
    return 2;
  }
  if (problem === undefined) return 0;
  io.stderr.write(`godwit: ${name} is not whole: ${plainText(problem)}\n`);
  return 1;
}

async function findingsOf(file: string, stdin: Readable, frames: boolean): Promise<AsyncIterable<Finding>> {
  if (file === '-') return inspectRecording(stdin, { frames });
  return (await isSnapshot(file))
    ? inspectSnapshot(file)
    : inspectRecording(createReadStream(file, { highWaterMark: READ_BYTES }), { frames });
}

/** Only of a file that can be read twice: from a pipe, these bytes would be gone. */
async function isSnapshot(path: string): Promise<boolean> {
  const file = await open(path);
  try {
    if (!(await file.stat()).isFile()) return false;
    const { bytesRead, buffer } = await file.read(new Uint8Array(SNIFFED_BYTES), 0, SNIFFED_BYTES, 0);
    return looksLikeSnapshot(buffer.subarray(0, bytesRead));
  } finally {
    await file.close();
  }
}

function version(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));
  return (manifest as { version: string }).version;
}
