import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { HostName } from './demo-event.js';
import type { CommandName, HostCommands, HostMessage, WireError } from './host-protocol.js';

/** A host's answer that something went wrong there, with the stable code. */
export class HostError extends Error {
  override readonly name = 'HostError';
  readonly code: string;

  constructor(host: HostName, error: WireError) {
    super(`${host}: ${error.message}`);
    this.code = error.code;
  }
}

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** How long a host may take to free its guest before it is killed. */
const SHUTDOWN_MS = 5000;

/**
 * The controller's side of a host process. The process ends when the channel between the two closes, whoever dies
 * first, so no run leaves one behind.
 */
export class HostProcess {
  readonly name: HostName;
  readonly pid: number;
  /** Resolves when the process is gone, whatever the reason. */
  readonly exited: Promise<void>;
  readonly #child: ChildProcess;
  readonly #pending = new Map<number, Pending>();
  #lastId = 0;
  #stderr = '';

  constructor(name: HostName, onMessage: (message: HostMessage) => void) {
    this.name = name;
    this.#child = fork(fileURLToPath(new URL('./host.js', import.meta.url)), [name], {
      // Structured clone: predictions may be infinite, which JSON cannot say.
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    this.pid = this.#child.pid ?? 0;
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-4000);
    });
    this.#child.on('message', (message) => {
      this.#receive(message as HostMessage, onMessage);
    });
    this.exited = new Promise((resolve) => {
      this.#child.once('error', () => {
        resolve();
      });
      this.#child.once('exit', () => {
        resolve();
      });
    });
    void this.exited.then(() => {
      this.#fail();
    });
  }

  /** Asks the host to do something; rejects with a `HostError`. */
  ask<Name extends CommandName>(
    command: Name,
    request: HostCommands[Name]['request'],
  ): Promise<HostCommands[Name]['reply']> {
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve: (value) => resolve(value as HostCommands[Name]['reply']), reject });
      this.#child.send({ id, command, request }, (error) => {
        if (error !== null) this.#settle(id)?.reject(this.#gone());
      });
    });
  }

  /** Lets the host free what it holds and end; kills it when it does not. */
  async shutdown(): Promise<void> {
    if (this.#child.connected) this.#child.disconnect();
    const timer = setTimeout(() => this.kill(), SHUTDOWN_MS);
    await this.exited;
    clearTimeout(timer);
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  #receive(message: HostMessage, onMessage: (message: HostMessage) => void): void {
    if (message.type === 'reply') this.#settle(message.id)?.resolve(message.value);
    else if (message.type === 'error') this.#settle(message.id)?.reject(new HostError(this.name, message.error));
    else onMessage(message);
  }

  #settle(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    return pending;
  }

  #fail(): void {
    for (const id of [...this.#pending.keys()]) this.#settle(id)?.reject(this.#gone());
  }

  #gone(): HostError {
    const how = this.#child.signalCode ?? `status ${this.#child.exitCode ?? 'unknown'}`;
    const last = this.#stderr.trim();
    return new HostError(this.name, {
      code: 'GODWIT_LINK_LOST',
      message: `the host process (pid ${this.pid}) ended with ${how}${last === '' ? '' : `: ${last}`}`,
    });
  }
}
