import { readFileSync } from 'node:fs';
import { LinuxHost } from './linux-host.js';
import { ask, type MoveFigures, PATIENCE, SILENCE_MS } from './vmm-control.js';

/** The figures of a guest's work (guest_work.c), as they stand. All that count work only grow; no defect is ever right. */
export interface WorkFigures {
  readonly memoryRounds: number;
  readonly diskRounds: number;
  readonly sleeps: readonly number[];
  /** The longest time by which a sleep was late, in milliseconds. */
  readonly lateMs: number;
  readonly defects: number;
  /** Seconds of the guest's own clock since its start. */
  readonly uptime: number;
}

/** A Linux guest with a shell, a disk and a network card, that goes from one process to the next. */
export class MovingLinux {
  readonly #folder: string;
  readonly #devices: readonly string[];
  #host: LinuxHost;
  #moves = 0;

  private constructor(folder: string, devices: readonly string[], host: LinuxHost) {
    this.#folder = folder;
    this.#devices = devices;
    this.#host = host;
  }

  /**
   * Boots it, and waits for its shell.
   *
   * @param folder for sockets
   * @param options of `vmm run` for the guest
   * @param devices options that each process is given, such as `--disk`
   */
  static async boot(folder: string, options: readonly string[], devices: readonly string[]): Promise<MovingLinux> {
    const host = new LinuxHost(['run', ...options, ...devices, '--control', `${folder}/0.sock`]);
    const guest = new MovingLinux(folder, devices, host);
    // What is typed before the prompt may be lost.
    await host.prints(/ready after [\d.]+ s\n[\s\S]*guest# /);
    return guest;
  }

  get host(): LinuxHost {
    return this.#host;
  }

  /** The control socket of the process that has the guest. */
  get control(): string {
    return `${this.#folder}/${this.#moves}.sock`;
  }

  /** Types a command, and returns the part of what it prints that the pattern's first group matches. */
  async answer(command: string, pattern: RegExp): Promise<string> {
    this.#host.type(command);
    return (await this.#host.prints(pattern))[1] as string;
  }

  /**
   * Moves the guest over TCP to a process of its own. The one that had it has ended when this resolves.
   *
   * @param last done when the destination waits, before the guest is moved
   */
  async move(request: object, last: () => Promise<void> = async () => {}): Promise<MoveFigures> {
    const from = this.#host;
    const { control } = this;
    const next = new LinuxHost([
      ...['receive', 'tcp:127.0.0.1:0', '--once', '--reconnect-timeout', String(SILENCE_MS), ...this.#devices],
      ...['--control', `${this.#folder}/${this.#moves + 1}.sock`],
    ]);
    try {
      const to = (await next.says(/a guest may come to (\S+)/))[1] as string;
      await last();
      this.#host = next;
      this.#moves++;
      const figures = await ask<MoveFigures>(control, 'migrate', { to, ...PATIENCE, ...request });
      const status = await from.ended;
      if (status !== 0) throw new Error(`the source ended with ${status}: ${from.messages}`);
      return figures;
    } catch (error) {
      for (const host of [from, next]) host.kill();
      throw new Error(`move ${this.#moves}: ${String(error)}\n${from.messages}\n${next.messages}`, { cause: error });
    }
  }

  /** The figures of the work that the guest does. */
  async figures(): Promise<WorkFigures> {
    const text = await this.answer(
      'sleep 0.2; cat /tmp/memory /tmp/timers /tmp/disk; echo "uptime=$(cut -d " " -f 1 /proc/uptime) end"',
      /^(rounds=[\s\S]*uptime=[\d.]+) end\n/m,
    );
    const numbers = (name: string): number[] =>
      [...text.matchAll(new RegExp(`\\b${name}=([\\d.]+)`, 'g'))].map((match) => Number(match[1]));
    const [memoryRounds = 0, diskRounds = 0] = numbers('rounds');
    return {
      ...{ memoryRounds, diskRounds, sleeps: numbers('cpu\\d') },
      lateMs: numbers('late_ms')[0] ?? 0,
      defects: numbers('defects').reduce((sum, count) => sum + count, 0),
      uptime: numbers('uptime')[0] ?? 0,
    };
  }

  /** Waits until each work has gone on beyond these figures, on each processor. */
  async worksOn(since: WorkFigures): Promise<WorkFigures> {
    for (;;) {
      const now = await this.figures();
      if (
        now.memoryRounds > since.memoryRounds &&
        now.diskRounds > since.diskRounds &&
        now.sleeps.every((count, cpu) => count > (since.sleeps[cpu] ?? 0))
      )
        return now;
    }
  }

  /** The VMM's memory beside the guest's, in MiB. The guest's is shared memory (a memory file). */
  ownMemoryMib(): number {
    const status = readFileSync(`/proc/${this.#host.pid}/status`, 'utf8');
    const kib = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? 0);
    return (kib('VmRSS') - kib('RssShmem')) / 1024;
  }
}
