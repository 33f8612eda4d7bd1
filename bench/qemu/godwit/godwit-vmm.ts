import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { Letters } from '../letters.js';
import type { Departure, GuestSpec, MoveSettings, Patience, Vmm, VmmProcess } from '../vmm.js';
import type { CommandName, HostCommands, HostMessage } from './host-messages.js';

/** Closing waits for vCPU threads; when one hangs in the kernel, the process still has to go. */
const LAST_RESORT_MS = 10_000;

/**
 * @param neverRearm the dirty log reports only the first write of each page: a defect that the check must notice
 */
export function godwitVmm(name: string, { neverRearm = false } = {}): Vmm {
  return {
    name,
    boot: (spec) => GodwitProcess.start(spec, 'source', neverRearm),
    empty: (spec) => GodwitProcess.start(spec, 'destination', neverRearm),
  };
}

interface Pending {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/** A process of its own with one machine of node-vmm. */
class GodwitProcess implements VmmProcess {
  readonly #child: ChildProcess = fork(new URL('./host.js', import.meta.url), { serialization: 'advanced' });
  readonly #exited = once(this.#child, 'exit');
  readonly #pending = new Map<number, Pending>();
  readonly #letters = new Letters();
  #next = 0;

  private constructor() {
    this.#child.on('message', (message) => this.#hear(message as HostMessage));
    this.#exited.then(
      ([status, signal]) => this.#fail(new Error(`the process ended with ${signal ?? `status ${status}`}`)),
      (error: Error) => this.#fail(error),
    );
  }

  static async start(spec: GuestSpec, role: 'source' | 'destination', neverRearm: boolean): Promise<GodwitProcess> {
    const started = new GodwitProcess();
    try {
      await started.#ask('start', { spec, role, neverRearm });
      return started;
    } catch (error) {
      await started.close();
      throw error;
    }
  }

  printed(letter: string): Promise<void> {
    return this.#letters.printed(letter);
  }

  listen(settings: MoveSettings): Promise<number> {
    return this.#ask('listen', { settings });
  }

  send(port: number, settings: MoveSettings, patience: Patience): Promise<Departure> {
    return this.#ask('send', { port, settings, patience });
  }

  arrival(): Promise<number> {
    return this.#ask('arrival', null);
  }

  async save(path: string): Promise<void> {
    await this.#ask('save', { path });
  }

  async restore(path: string): Promise<void> {
    await this.#ask('restore', { path });
  }

  firstBytes(): Promise<Uint8Array> {
    return this.#ask('firstBytes', null);
  }

  async close(): Promise<void> {
    if (this.#child.connected) this.#child.disconnect();
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), LAST_RESORT_MS);
    await this.#exited;
    clearTimeout(timer);
  }

  #ask<Name extends CommandName>(
    command: Name,
    request: HostCommands[Name]['request'],
  ): Promise<HostCommands[Name]['reply']> {
    const id = this.#next++;
    const answer = new Promise<unknown>((resolve, reject) => this.#pending.set(id, { resolve, reject }));
    this.#child.send({ id, command, request }, (error) => {
      if (error !== null) this.#fail(error);
    });
    return answer as Promise<HostCommands[Name]['reply']>;
  }

  #hear(message: HostMessage): void {
    if (message.type === 'printed') {
      this.#letters.hear(message.text);
      return;
    }
    const pending = this.#pending.get(message.id);
    this.#pending.delete(message.id);
    if (message.type === 'reply') pending?.resolve(message.value);
    else pending?.reject(new Error(message.message));
  }

  #fail(error: Error): void {
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
    this.#letters.fail(error);
  }
}
