import { fork } from 'node:child_process';
import { CommandProcess } from '@godwit/example-node-vmm/process';
import { Letters } from '../letters.js';
import type { Departure, GuestSpec, MoveSettings, Patience, Vmm, VmmProcess } from '../vmm.js';
import { type HostCommands, type HostMessage, LAST_RESORT_MS } from './host-messages.js';

export interface GodwitOptions {
  /** The dirty log reports only the first write of each page: a defect that the check must notice. Default false. */
  readonly neverRearm?: boolean;
  /** V8 samples the stacks of all threads, and writes them into this folder when the process ends. Default: it does not. */
  readonly profileFolder?: string;
}

export function godwitVmm(name: string, options: GodwitOptions = {}): Vmm {
  return {
    name,
    boot: (spec) => GodwitProcess.start(name, spec, 'source', options),
    empty: (spec) => GodwitProcess.start(name, spec, 'destination', options),
  };
}

/** Five samples a millisecond: shorter calls are missed. */
const PROFILED = ['--cpu-prof', '--cpu-prof-interval', '200'];

/** A process with one machine of node-vmm. */
class GodwitProcess implements VmmProcess {
  readonly #process: CommandProcess<HostCommands, HostMessage>;
  readonly #letters = new Letters();

  private constructor(name: string, folder: string | undefined) {
    const profiled = folder === undefined ? [] : [...PROFILED, '--cpu-prof-dir', folder];
    const execArgv = [...process.execArgv, ...profiled];
    const child = fork(new URL('./host.js', import.meta.url), { serialization: 'advanced', execArgv });
    this.#process = new CommandProcess(name, child, ({ text }) => this.#letters.hear(text));
    void this.#process.exited.then(() => this.#letters.fail(this.#process.gone()));
  }

  static async start(
    name: string,
    spec: GuestSpec,
    role: 'source' | 'destination',
    { neverRearm = false, profileFolder }: GodwitOptions,
  ): Promise<GodwitProcess> {
    const started = new GodwitProcess(name, profileFolder);
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

  faultLatencies(): Promise<readonly number[]> {
    return this.#process.ask('faultLatencies', null);
  }

  speed(): Promise<number> {
    return this.#process.ask('speed', null);
  }

  reaches(speed: number): Promise<number> {
    return this.#process.ask('reaches', { speed });
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
