import { type ChildProcess, spawn } from 'node:child_process';
import { checkOptions, GodwitError, nonNegative } from '@godwit/core';
import type { ByteStream, Listener, Transport } from '../stream/byte-stream.js';
import { cancelled, throwIfCancelled } from '../stream/cancellation.js';
import { mayPass } from '../stream/connect-failure.js';
import { ChildStream } from './child-stream.js';

/** The command of an `exec` transport, and how it is run. */
export interface ExecOptions {
  /** The program, looked up in PATH; no shell is involved. */
  readonly command: string;
  readonly args?: readonly string[];
  readonly cwd?: string;
  /** Default: this process's own. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /**
   * Makes the command a process group of its own, so that everything it starts ends with it. A program in such a group
   * cannot ask for a password on the terminal (`ssh`); with `false` it can, and only the program itself is ended.
   * Default: true.
   */
  readonly processGroup?: boolean;
  /** How long a command may go on after both directions have ended, in milliseconds. Default: 5 000. */
  readonly lingerMs?: number;
}

const EXEC_OPTIONS: Readonly<Record<keyof ExecOptions, true>> = {
  command: true,
  args: true,
  cwd: true,
  env: true,
  processGroup: true,
  lingerMs: true,
};

/**
 * A command whose standard input and output are the stream: `exec('ssh host godwit-receive')`. Text goes to `sh -c`. Each
 * `connect` starts it once. When the command fails, the error has its exit code and the last 4 KiB of its standard error.
 * The command never outlives its use: dropped streams kill it, and so does the end of this process.
 *
 * The other side uses `stdio()`. This transport cannot listen.
 *
 * @example
 * migrate(vm, connectTo(exec('ssh vm-host my-vmm --receive'))); // at the other end: `stdio()`
 */
export function exec(options: ExecOptions | string): Transport {
  const shell = typeof options === 'string';
  if (!shell) checkOptions<ExecOptions>('exec', options, EXEC_OPTIONS);
  const { command, args = [], ...rest }: ExecOptions = shell ? { command: '/bin/sh', args: ['-c', options] } : options;
  const shown = shell ? options : [command, ...args].join(' ');
  if (shown.trim() === '') throw new GodwitError('GODWIT_INVALID_ARGUMENT', 'exec needs a command');
  const group = rest.processGroup ?? true;
  const lingerMs = nonNegative('lingerMs', rest.lingerMs ?? 5_000);
  return {
    async connect(signal?: AbortSignal): Promise<ByteStream> {
      throwIfCancelled(signal, `starting "${shown}"`);
      const child = spawn(command, args, {
        stdio: ['pipe', 'pipe', 'pipe'],
        detached: group,
        ...(rest.cwd !== undefined && { cwd: rest.cwd }),
        ...(rest.env !== undefined && { env: rest.env }),
      });
      await started(child, shown);
      const stream = new ChildStream(child, `exec:${shown}`, group, lingerMs);
      if (signal?.aborted === true) {
        const reason = cancelled(signal, `starting "${shown}"`);
        stream.abort(reason);
        throw reason;
      }
      return stream;
    },
    async listen(): Promise<Listener> {
      throw new GodwitError(
        'GODWIT_INVALID_ARGUMENT',
        'exec starts a command and cannot listen; the command itself uses stdio()',
      );
    },
  };
}

function started(child: ChildProcess, shown: string): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', (error: NodeJS.ErrnoException) => {
      const hint = error.code === 'ENOENT' ? ': there is no such program in PATH, or no such working directory' : '';
      const message = `cannot start "${shown}": ${error.message}${hint}`;
      // A program that does not exist will not exist the next time either; a shortage of processes or memory may pass.
      const retry = error.code !== 'ENOENT' && mayPass(error);
      reject(new GodwitError('GODWIT_CONNECT_FAILED', message, { cause: error, retry }));
    });
  });
}
