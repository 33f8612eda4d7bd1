import { spawn } from 'node:child_process';

export interface CommandOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
}

/**
 * Runs a command and resolves with its standard output.
 *
 * @throws Error with the end of what it printed when it fails
 */
export async function run(file: string, args: readonly string[], options: CommandOptions = {}): Promise<string> {
  return (await capture(file, args, options)).toString('utf8');
}

/** Like `run`, for output that is not text. */
export function capture(file: string, args: readonly string[], options: CommandOptions = {}): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, {
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      env: { ...process.env, ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const output: Buffer[] = [];
    let printed = '';
    child.stdout.on('data', (chunk: Buffer) => {
      output.push(chunk);
      printed = (printed + chunk).slice(-4000);
    });
    child.stderr.on('data', (chunk: Buffer) => {
      printed = (printed + chunk).slice(-4000);
    });
    child.on('error', (cause) => reject(new Error(`cannot run ${file}: ${cause.message}`, { cause })));
    child.on('close', (status, signal) => {
      if (status === 0) resolve(Buffer.concat(output));
      else reject(new Error(`${[file, ...args].join(' ')}: ${signal ?? `exit status ${status}`}\n${printed}`));
    });
  });
}

/** Prints the name of a long step, and the time that the step took. */
export async function announced<T>(what: string, work: () => Promise<T>): Promise<T> {
  const started = Date.now();
  process.stdout.write(`kernel: ${what} ...\n`);
  const result = await work();
  process.stdout.write(`kernel: ${what}: ${((Date.now() - started) / 1000).toFixed(1)} s\n`);
  return result;
}
