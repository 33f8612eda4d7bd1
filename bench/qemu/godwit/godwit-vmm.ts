import { fork } from 'node:child_process';
import { CommandProcess } from '@godwit/example-node-vmm/process';
import { Letters } from '../letters.js';
import type { Departure, GuestSpec, MoveSettings, Patience, Vmm, VmmProcess } from '../vmm.js';
import { type HostCommands, type HostMessage, LAST_RESORT_MS } from './host-messages.js';

/**
 * @param neverRearm the dirty log reports only the first write of each page: a defect that the check must notice
 */
export function godwitVmm(name: string, { neverRearm = false } = {}): Vmm {
  return {
    name,
    boot: (spec) => GodwitProcess.start(name, spec, 'source', neverRearm),
    empty: (spec) => GodwitProcess.start(name, spec, 'destination', neverRearm),
  };
}

/** A process with one machine of node-vmm. */
class GodwitProcess implements VmmProcess {
  readonly #process: CommandProcess<HostCommands, HostMessage>;
  readonly #letters = new Letters();

  private constructor(name: string) {
    const child = fork(new URL('./host.js', import.meta.url), { serialization: 'advanced' });
    this.#process = new CommandProcess(name, child, ({ text }) => this.#letters.hear(text));
    void this.#process.exited.then(() => this.#letters.fail(this.#process.gone()));
  }

  static async start(
    name: string,
    spec: GuestSpec,
    role: 'source' | 'destination',
    neverRearm: boolean,
  ): Promise<GodwitProcess> {
    const started = new GodwitProcess(name);
    try {
      await started.#process.ask('start', { spec, role, neverRearm });
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
    return this.#process.ask('listen', { settings });
  }

  send(port: number, settings: MoveSettings, patience: Patience): Promise<Departure> {
    return this.#process.ask('send', { port, settings, patience });
  }

  arrival(): Promise<number> {
    return this.#process.ask('arrival', null);
  }

  async save(path: string): Promise<void> {
    await this.#process.ask('save', { path });
  }

  async restore(path: string): Promise<void> {
    await this.#process.ask('restore', { path });
  }

  firstBytes(): Promise<Uint8Array> {
    return this.#process.ask('firstBytes', null);
  }

  close(): Promise<void> {
    return this.#process.end(LAST_RESORT_MS);
  }
}
