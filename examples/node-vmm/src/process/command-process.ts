import type { ChildProcess } from 'node:child_process';
import type { CommandAnswer, CommandRequest, CommandTable } from './command-messages.js';

/** A command that has failed in its process, with the stable code of the error there. */
export class CommandError extends Error {
  override readonly name = 'CommandError';
  readonly code: string;

  constructor(processName: string, code: string, message: string) {
    super(`${processName}: ${message}`);
    this.code = code;
  }
}

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/**
 * The parent's side of a process that runs `serveCommands`. The process ends when the channel between the two closes, whichever side ends
 * first.
 *
 * @example
 * const child = fork(new URL('./host.js', import.meta.url), { serialization: 'advanced' });
 * const host = new CommandProcess<HostCommands, HostMessage>('host', child, (message) => console.log(message));
 * const port = await host.ask('listen', null);
 */
export class CommandProcess<Commands extends CommandTable<Commands>, Message extends { readonly type: string }> {
  readonly pid: number;
  /** Resolves when the process is gone, whatever the reason. */
  readonly exited: Promise<void>;
  readonly #name: string;
  readonly #child: ChildProcess;
  readonly #pending = new Map<number, Pending>();
  #lastId = 0;
  #stderr = '';

  /**
   * @param name for messages
   * @param child made by `fork` with `serialization: 'advanced'`; the end of its stderr, if that is a pipe, is in the error of a
   * process that is gone
   * @param onMessage called with the process's own messages, which are neither of type `reply` nor `error`
   */
  constructor(name: string, child: ChildProcess, onMessage: (message: Message) => void) {
    this.#name = name;
    this.#child = child;
    this.pid = child.pid ?? 0;
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-4000);
    });
    child.on('message', (message) => this.#receive(message as CommandAnswer | Message, onMessage));
    this.exited = new Promise((resolve) => {
      child.once('error', () => resolve());
      child.once('exit', () => resolve());
    });
    void this.exited.then(() => {
      for (const id of [...this.#pending.keys()]) this.#settle(id)?.reject(this.gone());
    });
  }

  /** Resolves with the reply to a command; rejects with a `CommandError`, which has the code `GODWIT_LINK_LOST` if the process is gone. */
  ask<Name extends keyof Commands & string>(
    command: Name,
    request: Commands[Name]['request'],
  ): Promise<Commands[Name]['reply']> {
    const id = ++this.#lastId;
    const message: CommandRequest = { id, command, request };
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve: (value) => resolve(value as Commands[Name]['reply']), reject });
      this.#child.send(message, (error) => {
        if (error !== null) this.#settle(id)?.reject(this.gone());
      });
    });
  }

  /** Lets the process free what it holds and exit; kills it after `lastResortMs` milliseconds. */
  async end(lastResortMs: number): Promise<void> {
    if (this.#child.connected) this.#child.disconnect();
    const timer = setTimeout(() => this.kill(), lastResortMs);
    await this.exited;
    clearTimeout(timer);
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  /** The error of a process that is gone: its exit code or signal, and the end of its stderr. */
  gone(): CommandError {
    const how = this.#child.signalCode ?? `status ${this.#child.exitCode ?? 'unknown'}`;
    const last = this.#stderr.trim();
    const message = `the process (pid ${this.pid}) ended with ${how}${last === '' ? '' : `: ${last}`}`;
    return new CommandError(this.#name, 'GODWIT_LINK_LOST', message);
  }

  #receive(message: CommandAnswer | Message, onMessage: (message: Message) => void): void {
    if (!isAnswer(message)) onMessage(message);
    else if (message.type === 'reply') this.#settle(message.id)?.resolve(message.value);
    else this.#settle(message.id)?.reject(new CommandError(this.#name, message.code, message.message));
  }

  #settle(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    return pending;
  }
}

function isAnswer(message: CommandAnswer | { readonly type: string }): message is CommandAnswer {
  return message.type === 'reply' || message.type === 'error';
}
