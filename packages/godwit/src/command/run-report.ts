import { createReadStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { plainText } from '../inspect/plain-text.js';
import { reportRecording } from '../report/report-recording.js';
import type { Command } from './arguments.js';
import { LineOutput, OutputClosed } from './output.js';
import { BROKEN_PIPE_STATUS, isSnapshot, READ_BYTES, type Surroundings } from './surroundings.js';

/** Writes a recording as a page; resolves with the exit status, which is the same as that of `inspect`. */
export async function runReport(command: Extract<Command, { name: 'report' }>, io: Surroundings): Promise<number> {
  const { file, output } = command;
  const name = file === '-' ? 'standard input' : file;
  try {
    if (file !== '-' && (await isSnapshot(file))) {
      io.stderr.write(`godwit: ${name} is a snapshot, no recording: godwit inspect reads it\n`);
      return 2;
    }
    const bytes = file === '-' ? io.stdin : createReadStream(file, { highWaterMark: READ_BYTES });
    const { html, problem } = await reportRecording(bytes, file === '-' ? {} : { title: basename(file) });
    if (output === undefined) await new LineOutput(io.stdout).line(html.trimEnd());
    else await writeFile(output, html);
    if (problem === undefined) return 0;
    io.stderr.write(`godwit: ${name} is not whole: ${plainText(problem)}\n`);
    return 1;
  } catch (error) {
    if (error instanceof OutputClosed) return BROKEN_PIPE_STATUS;
    io.stderr.write(`godwit: no report of ${name}: ${(error as Error).message}\n`);
    return 2;
  }
}
