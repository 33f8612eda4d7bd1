import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/** One JSON line of the demo. */
export interface DemoLine {
  readonly event: string;
  readonly [key: string]: unknown;
}

export interface Exit {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** From test/dist/e2e: what `npm run demo` starts. */
const CLI = fileURLToPath(new URL('../../../examples/node-vmm/dist/demo/cli.js', import.meta.url));

/** The demo, started as a user starts it, whose output is read line by line. */
export class DemoProcess {
  readonly lines: DemoLine[] = [];
  readonly exit: Promise<Exit>;
  readonly #child: ChildProcess;
  readonly #listeners = new Set<(line: DemoLine) => void>();
  #stderr = '';

  constructor(...options: readonly string[]) {
    this.#child = spawn(process.execPath, [CLI, '--json', ...options], { stdio: ['ignore', 'pipe', 'pipe'] });
    const { stdout, stderr } = this.#child;
    if (stdout === null || stderr === null) throw new Error('the demo was started without pipes');
    stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr += text;
    });
    const reader = createInterface({ input: stdout });
    reader.on('line', (text) => {
      const line = JSON.parse(text) as DemoLine;
      this.lines.push(line);
      for (const listener of this.#listeners) listener(line);
    });
    this.exit = Promise.all([once(this.#child, 'close'), once(reader, 'close')]).then(
      ([[status, signal]]) => ({ status, signal }) as Exit,
    );
  }

  get stderr(): string {
    return this.#stderr;
  }

  get last(): DemoLine {
    const last = this.lines.at(-1);
    if (last === undefined) throw new Error(`the demo printed nothing; on stderr: ${this.#stderr}`);
    return last;
  }

  /** Throws if the run failed; the error has the run's last lines and its standard error. */
  expectNoFailure(): void {
    if (this.last.event !== 'failed') return;
    const lines = this.lines.filter(({ event }) => event !== 'console' && event !== 'progress').slice(-12);
    throw new Error(`the demo failed:\n${lines.map((line) => JSON.stringify(line)).join('\n')}\n${this.#stderr}`);
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** All lines of one kind. */
  all(event: string): readonly DemoLine[] {
    return this.lines.filter((line) => line.event === event);
  }

  /**
   * Resolves with the first line that satisfies `wanted`, from the beginning of the output; rejects if the demo ends
   * without one.
   */
  until(wanted: (line: DemoLine) => boolean): Promise<DemoLine> {
    const seen = this.lines.find(wanted);
    if (seen !== undefined) return Promise.resolve(seen);
    return new Promise((resolve, reject) => {
      const listener = (line: DemoLine) => {
        if (!wanted(line)) return;
        this.#listeners.delete(listener);
        resolve(line);
      };
      this.#listeners.add(listener);
      void this.exit.then(() =>
        reject(new Error(`the demo ended first; its last line: ${JSON.stringify(this.lines.at(-1))} ${this.#stderr}`)),
      );
    });
  }

  /** Process ids of the two hosts. */
  async hosts(): Promise<{ readonly source: number; readonly destination: number }> {
    const { source, destination } = await this.until(({ event }) => event === 'hosts');
    return { source: Number(source), destination: Number(destination) };
  }

  /** Counters of all heartbeats with the host that printed them, in order. */
  beats(): readonly { readonly host: string; readonly count: number }[] {
    return this.all('console')
      .filter(({ beat }) => beat !== undefined)
      .map(({ host, beat }) => ({ host: String(host), count: Number(beat) }));
  }
}

/** Whether a process exists; a zombie of this process does not count. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Waits until all of the processes have ended; resolves with those that have not by then. */
export async function allGone(pids: readonly number[], timeoutMs = 8000): Promise<readonly number[]> {
  const deadline = performance.now() + timeoutMs;
  while (performance.now() < deadline && pids.some(isAlive)) await new Promise((resolve) => setTimeout(resolve, 50));
  return pids.filter(isAlive);
}
