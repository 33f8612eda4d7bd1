import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { TRACE_VARIABLE, VMM_VARIABLE } from './linux-files.js';

/** The command, from this file's place: test/dist/kernel/guest. */
const VMM = process.env[VMM_VARIABLE] ?? join(import.meta.dirname, '../../../../examples/node-vmm/dist/command/cli.js');
const TAIL = 3000;
/** Whether all that guests and VMMs say is shown. */
const TRACED = process.env[TRACE_VARIABLE] !== undefined;

/** A process of `npm run vmm --` whose guest is typed at, and what came of it. */
export class LinuxHost {
  readonly ended: Promise<number | null>;
  readonly #child: ChildProcess;
  readonly #what: string;
  /** What the guest has printed since the last match, and what the VMM has said. */
  #console = '';
  #messages = '';
  #over = false;
  #look: () => void = () => {};

  constructor(args: readonly string[]) {
    this.#what = args[0] as string;
    this.#child = spawn(process.execPath, [VMM, ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
    const { stdout, stderr } = this.#child;
    stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.#console += text.replaceAll('\r', '');
      if (TRACED) process.stdout.write(text);
      this.#look();
    });
    stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#messages += text;
      if (TRACED) process.stdout.write(text);
      this.#look();
    });
    this.ended = new Promise((resolve) => {
      this.#child.once('close', (status) => {
        this.#over = true;
        resolve(status);
        this.#look();
      });
    });
  }

  /** The VMM's process. */
  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** All that the VMM has said. */
  get messages(): string {
    return this.#messages;
  }

  type(line: string): void {
    this.#child.stdin?.write(`${line}\n`);
  }

  /** Waits until the guest has printed it; what came before is forgotten. Rejects when the process ends first. */
  prints(pattern: RegExp): Promise<RegExpExecArray> {
    return this.#comes(pattern, () => {
      const match = pattern.exec(this.#console);
      if (match !== null) this.#console = this.#console.slice(match.index + match[0].length);
      return match;
    });
  }

  /** Waits until the VMM has said it. Rejects when the process ends first. */
  says(pattern: RegExp): Promise<RegExpExecArray> {
    return this.#comes(pattern, () => pattern.exec(this.#messages));
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  #comes(pattern: RegExp, find: () => RegExpExecArray | null): Promise<RegExpExecArray> {
    return new Promise((resolve, reject) => {
      this.#look = () => {
        const match = find();
        if (match !== null) {
          this.#look = () => {};
          resolve(match);
        } else if (this.#over) {
          const said = `${this.#console.slice(-TAIL)}\n${this.#messages}`;
          reject(new Error(`"${this.#what}" ended before ${pattern} came:\n${said}`));
        }
      };
      this.#look();
    });
  }
}
